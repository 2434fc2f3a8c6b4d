//! The text of a grant: `TABLE [(COLUMN, ...)] [WHERE CONDITION]`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, Value, Visit, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::bad;
use crate::command;
use crate::error::{Result, SYNTAX, SqlError, TOO_COMPLEX};
use crate::session::folded;
use crate::size;
use crate::tables::SEARCH_PATH;

/// Bytes of one.
const BYTES: usize = 4096;

/// A table, columns of it, and rows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    schema: String,
    /// None: all tables of the schema.
    table: Option<String>,
    /// None: all columns.
    columns: Option<Vec<String>>,
    /// None: all rows.
    condition: Option<Expr>,
}

impl Grant {
    /// # Errors
    /// When it makes no sense.
    pub fn parse(text: &str) -> Result<Grant> {
        if text.len() > BYTES {
            return Err(SqlError::new(TOO_COMPLEX, format!("a grant has at most {BYTES} bytes, and this has {}", text.len())));
        }
        read(text).map_err(|e| match e.hint {
            None => {
                e.placed_in(text).hint("write it like \"events.payments (id, time) WHERE country = 'DE'\", \"decisions\" or \"features.*\"")
            }
            Some(_) => e,
        })
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }

    pub fn condition(&self) -> Option<&Expr> {
        self.condition.as_ref()
    }

    /// Whether it is about a table.
    pub fn is_of(&self, schema: &str, table: &str) -> bool {
        self.schema == schema && self.table.as_deref().is_none_or(|own| own == table)
    }
}

fn read(text: &str) -> Result<Grant> {
    let mut parser = command::parser(&command::tokens(text)?);
    let first = name(&mut parser)?;
    let (schema, table) = match parser.consume_token(&Token::Period) {
        // What lies elsewhere later does not take the place of what was meant.
        false => (SEARCH_PATH[0].to_owned(), Some(first)),
        true if parser.consume_token(&Token::Mul) => (first, None),
        true => (first, Some(name(&mut parser)?)),
    };
    let columns = match parser.consume_token(&Token::LParen) {
        true => {
            let names = parser.parse_comma_separated(Parser::parse_identifier)?;
            parser.expect_token(&Token::RParen)?;
            Some(names.iter().map(told).collect::<Result<Vec<String>>>()?)
        }
        false => None,
    };
    let condition = match parser.parse_keyword(Keyword::WHERE) {
        true => Some(parser.parse_expr()?),
        false => None,
    };
    match parser.peek_token().token {
        Token::EOF => {}
        token => return Err(SqlError::new(SYNTAX, format!("syntax error at or near \"{token}\""))),
    }
    if table.is_none() && (columns.is_some() || condition.is_some()) {
        return Err(bad(format!("{schema}.* is all of its tables, which have neither columns nor rows in common"))
            .hint("name the tables one by one"));
    }
    if let Some(names) = &columns
        && let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name))
    {
        return Err(bad(format!("column \"{twice}\" is named twice")).hint("name each column once"));
    }
    if let Some(condition) = &condition {
        looks_at_one_row(condition)?;
        size::bounded(&command::asking_where(condition)?)?;
    }
    Ok(Grant { schema, table, columns, condition })
}

fn name(parser: &mut Parser<'_>) -> Result<String> {
    told(&parser.parse_identifier()?)
}

/// A name, in small letters where it is not quoted.
fn told(ident: &Ident) -> Result<String> {
    match ident.quote_style {
        None | Some('"') => Ok(folded(ident)),
        Some(_) => {
            Err(SqlError::new(SYNTAX, format!("{ident} is a text, and no name"))
                .hint("names with capital letters stand in \"double quotes\""))
        }
    }
}

/// Refuses conditions that ask for more than the row, or are not complete by themselves.
fn looks_at_one_row(condition: &Expr) -> Result<()> {
    struct More;
    impl Visitor for More {
        type Break = &'static str;
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<&'static str> {
            ControlFlow::Break("another question")
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<&'static str> {
            match expr {
                Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => ControlFlow::Break("a parameter"),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match condition.visit(&mut More) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(what) => {
            Err(bad(format!("the condition of a grant cannot hold {what}")).hint("it looks at the columns of one row"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_a_table_its_columns_and_its_rows() {
        let all = |schema: &str, table: &str| Grant { schema: schema.into(), table: Some(table.into()), columns: None, condition: None };
        let check = |text: &str, expected: Grant| assert_eq!(Grant { condition: None, ..Grant::parse(text).unwrap() }, expected, "{text}");
        check("decisions", all("public", "decisions"));
        check(" Events . \"Pay Ments\" ", all("events", "Pay Ments"));
        check("features.*", Grant { table: None, ..all("features", "") });
        let columns = Some(vec!["id".to_owned(), "time".into(), "Amount".into()]);
        check(
            "events.payments (ID, time, \"Amount\") where id > 5 OR country = 'DE' -- of Germany",
            Grant { columns, ..all("events", "payments") },
        );
        let condition = Grant::parse("t where a = 'x' and b in (1, 2)").unwrap().condition.unwrap();
        assert_eq!(condition.to_string(), "a = 'x' AND b IN (1, 2)");
    }

    #[test]
    fn what_is_no_grant_is_refused_with_a_hint() {
        let long = format!("t where a in ({})", "1, ".repeat(2000));
        let deep = format!("t where {}a{}", "not (".repeat(200), ")".repeat(200));
        let chain = format!("t where a{}", " or a".repeat(1900));
        for bad in [
            "",
            "'t'",
            "t ()",
            "t (a,)",
            "t (a",
            "t (a b)",
            "t (a, A)",
            "t (*)",
            "a.b.c",
            "t where",
            "t a = 1",
            "t where a = 1; select 1",
            "t; t",
            "features.* (a)",
            "features.* where a",
            "*",
            "*.*",
            "t where a = $1",
            "t where a in (select 1)",
            "t where exists (select 1)",
            "t where a = (select 1)",
            "t where a = any (select 1)",
            "t where array(select 1) = a",
            "t where a = 1 union select 1",
            "t as b where a",
            &long,
            &deep,
            &chain,
        ] {
            let error = Grant::parse(bad).expect_err(bad);
            assert!(error.hint.is_some() || error.code == TOO_COMPLEX, "{bad}: {error}");
        }
    }
}
