//! Questions about the catalogue, from PostgreSQL's words into SQLite's.
//!
//! Both take joins, nested and correlated questions alike; what differs is types, operators and functions, and that SQLite has no arrays: here they are JSON.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, Join, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    Statement, Subscript, TableAlias, TableFactor, TableFunctionArgs, TableWithJoins, Value, VisitMut, VisitorMut,
};

use pgwire::api::Type;

use super::types::{Types, of_cast};
use crate::session::{arguments, folded, last, literal, string, type_name};

/// Rewrites a statement in place; what each of its columns is, as far as its text tells, comes with it, and what its parameters are.
pub fn translate(statement: &mut Statement, columns: &HashMap<String, &'static str>) -> (Vec<Option<String>>, Vec<Type>) {
    let mut types = Types::new(columns);
    let _ = statement.visit(&mut types);
    let output = match statement {
        Statement::Query(query) => types.output(query),
        _ => Vec::new(),
    };
    let parameters = types.parameters();
    let mut translation = Translation { values: HashMap::new(), made: 0, types };
    let _ = statement.visit(&mut translation);
    (output, parameters)
}

/// Functions that give rows, as functions that give an array.
const ROWS: [&str; 7] = [
    "unnest",
    "generate_series",
    "generate_subscripts",
    "_pg_expandarray",
    "json_array_elements_text",
    "pg_get_keywords",
    "regexp_split_to_table",
];

/// Functions whose one value is asked for as a table.
const ONE_ROW: [&str; 1] = ["string_to_array"];

/// How names of tables begin that are made here.
const MADE: &str = "__elements_";

/// Whether a table is made here: the elements of an array.
pub fn is_made(table: &str) -> bool {
    table == "json_each" || table.starts_with(MADE)
}

pub fn gives_rows(name: &str) -> bool {
    ROWS.contains(&name)
}

/// Whether a function may stand where a table does.
pub fn is_function(name: &str) -> bool {
    gives_rows(name) || ONE_ROW.contains(&name)
}

struct Translation<'a> {
    /// Names of columns that are elements of an array, and what they are called.
    values: HashMap<String, Element>,
    made: usize,
    types: Types<'a>,
}

#[derive(Clone)]
struct Element {
    table: String,
    column: &'static str,
}

impl VisitorMut for Translation<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        let name = |part: &ObjectNamePart| part.as_ident().map(folded).unwrap_or_default();
        if relation.0.len() == 3 {
            relation.0.remove(0);
        }
        if relation.0.len() == 2 && name(&relation.0[0]) == "pg_catalog" {
            relation.0.remove(0);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { lateral, .. } = factor {
            *lateral = false;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        // Columns come before tables, and must know which of these are arrays.
        for from in &mut select.from {
            self.tables(from);
        }
        self.columns(select);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(new) = self.translated(expr) {
            *expr = new;
        }
        ControlFlow::Continue(())
    }
}

impl Translation<'_> {
    fn tables(&mut self, from: &mut TableWithJoins) {
        self.table(&mut from.relation);
        for join in &mut from.joins {
            self.table(&mut join.relation);
        }
    }

    /// A function that gives rows becomes the elements of an array.
    fn table(&mut self, factor: &mut TableFactor) {
        let (name, arguments, alias) = match factor {
            TableFactor::Table { name, args: Some(args), alias, .. } => (last(name), plain(&args.args), alias.clone()),
            TableFactor::Function { name, args, alias, .. } => (last(name), plain(args), alias.clone()),
            TableFactor::UNNEST { array_exprs, alias, .. } => ("unnest".to_owned(), array_exprs.clone(), alias.clone()),
            TableFactor::NestedJoin { table_with_joins, .. } => {
                self.tables(table_with_joins);
                return;
            }
            _ => return,
        };
        if ONE_ROW.contains(&name.as_str()) {
            let called = alias.as_ref().map_or_else(|| name.clone(), |alias| folded(&alias.name));
            let column =
                alias.as_ref().and_then(|alias| alias.columns.first()).map_or_else(|| called.clone(), |column| folded(&column.name));
            if let Some(table) = one_row(call(&name, arguments), &column, &called) {
                *factor = table;
            }
            return;
        }
        if !gives_rows(&name) {
            return;
        }
        let table = alias.as_ref().map_or_else(|| self.name(), |alias| folded(&alias.name));
        match alias.as_ref().map(|alias| alias.columns.as_slice()).unwrap_or_default() {
            [] => {
                let column = if name == "pg_get_keywords" { "word".to_owned() } else { table.clone() };
                self.values.insert(column, Element { table: table.clone(), column: "value" });
            }
            columns => {
                for (column, part) in columns.iter().zip(["value", "key"]) {
                    self.values.insert(folded(&column.name), Element { table: table.clone(), column: part });
                }
            }
        }
        *factor = elements(array(&name, arguments), &table);
    }

    fn columns(&mut self, select: &mut Select) {
        for item in &mut select.projection {
            // ORDER BY means the column of the answer, where a name is that of several.
            if let SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(_)) = item
                && let Expr::CompoundIdentifier(parts) = &*expr
                && let Some(name) = parts.last().cloned()
            {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: name };
            }
        }
        // What gives rows among the columns becomes a table to join.
        let mut tables = Vec::new();
        for item in &mut select.projection {
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
            let expr = match expr {
                Expr::CompoundFieldAccess { root, .. } => root.as_mut(),
                expr => expr,
            };
            let inner = match expr {
                Expr::Nested(inner) => inner.as_mut(),
                expr => expr,
            };
            let Expr::Function(function) = inner else { continue };
            if !gives_rows(&last(&function.name)) {
                continue;
            }
            let table = self.name();
            let arguments = arguments(function).into_iter().cloned().collect();
            tables.push(elements(array(&last(&function.name), arguments), &table));
            *inner = column(&table, "value");
        }
        for table in tables {
            let join = Join { relation: table, global: false, join_operator: JoinOperator::CrossJoin(JoinConstraint::None) };
            match select.from.last_mut() {
                Some(last) => last.joins.push(join),
                None => select.from.push(TableWithJoins { relation: join.relation, joins: Vec::new() }),
            }
        }
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("{MADE}{}", self.made)
    }

    fn translated(&mut self, expr: &mut Expr) -> Option<Expr> {
        let null = || Expr::value(Value::Null);
        let take = |expr: &mut Box<Expr>| std::mem::replace(expr.as_mut(), Expr::value(Value::Null));
        let new = match expr {
            Expr::Identifier(name) => {
                let element = self.values.get(&folded(name))?;
                column(&element.table, element.column)
            }
            Expr::CompoundIdentifier(parts) => {
                if parts.len() > 2 {
                    parts.drain(..parts.len() - 2);
                }
                let [table, name] = parts.as_slice() else { return None };
                let element = self.values.get(&folded(name)).filter(|element| element.table == folded(table))?;
                column(&element.table, element.column)
            }
            Expr::Value(value) => match &value.value {
                Value::EscapedStringLiteral(text) => string(&text.clone()),
                _ => return None,
            },
            Expr::TypedString(typed) => match &typed.value.value {
                Value::SingleQuotedString(text) => string(&text.clone()),
                _ => return None,
            },
            Expr::Cast { expr, data_type, .. } => {
                let from = self.types.of(expr);
                cast(take(expr), from.as_deref(), data_type)
            }
            Expr::Array(Array { elem, .. }) => call("json_array", std::mem::take(elem)),
            Expr::AnyOp { left, compare_op, right, .. } => match (compare_op, right.as_mut()) {
                (BinaryOperator::Eq, Expr::Subquery(query)) => {
                    Expr::InSubquery { subquery: query.clone(), expr: Box::new(take(left)), negated: false }
                }
                (BinaryOperator::Eq, _) => call("pg_any", vec![take(left), take(right)]),
                (op, _) => {
                    let op = string(&op.to_string());
                    call("pg_any_by", vec![take(left), op, take(right)])
                }
            },
            Expr::AllOp { left, compare_op, right } => match (compare_op, right.as_mut()) {
                (BinaryOperator::NotEq, Expr::Subquery(query)) => {
                    Expr::InSubquery { subquery: query.clone(), expr: Box::new(take(left)), negated: true }
                }
                (op, _) => {
                    let op = string(&op.to_string());
                    call("pg_all_by", vec![take(left), op, take(right)])
                }
            },
            Expr::BinaryOp { left, op, right } => {
                let operator = match &*op {
                    BinaryOperator::PGCustomBinaryOperator(parts) => parts.last().cloned().unwrap_or_default(),
                    op => op.to_string(),
                };
                match operator.as_str() {
                    "~" | "~*" | "!~" | "!~*" => call("pg_regex", vec![take(left), take(right), string(&operator)]),
                    "~~" | "~~*" | "!~~" | "!~~*" => call("pg_like", vec![take(left), take(right), string(&operator), null()]),
                    "@>" | "<@" | "&&" => call("pg_sets", vec![take(left), string(&operator), take(right)]),
                    "=" | "<>" | "<" | ">" | "<=" | ">=" if matches!(op, BinaryOperator::PGCustomBinaryOperator(_)) => {
                        let plain = match operator.as_str() {
                            "=" => BinaryOperator::Eq,
                            "<>" => BinaryOperator::NotEq,
                            "<" => BinaryOperator::Lt,
                            ">" => BinaryOperator::Gt,
                            "<=" => BinaryOperator::LtEq,
                            _ => BinaryOperator::GtEq,
                        };
                        Expr::BinaryOp { left: Box::new(take(left)), op: plain, right: Box::new(take(right)) }
                    }
                    _ => return None,
                }
            }
            Expr::Like { negated, expr, pattern, escape_char, .. } => {
                let operator = if *negated { "!~~" } else { "~~" };
                let escape = escape_char.as_ref().map_or_else(null, |escape| Expr::Value(escape.clone()));
                call("pg_like", vec![take(expr), take(pattern), string(operator), escape])
            }
            Expr::ILike { negated, expr, pattern, escape_char, .. } => {
                let operator = if *negated { "!~~*" } else { "~~*" };
                let escape = escape_char.as_ref().map_or_else(null, |escape| Expr::Value(escape.clone()));
                call("pg_like", vec![take(expr), take(pattern), string(operator), escape])
            }
            Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
                [AccessExpr::Subscript(Subscript::Index { index })] => self.element(root.as_ref().clone(), index),
                // `a.b[i]`
                [AccessExpr::Dot(Expr::Identifier(name)), AccessExpr::Subscript(Subscript::Index { index })] => match root.as_ref() {
                    Expr::Identifier(table) => self.element(column(&table.value, &name.value), index),
                    _ => return None,
                },
                // A part of what `_pg_expandarray` gives: its element, or its place.
                [AccessExpr::Dot(Expr::Identifier(name))] => match root.as_ref() {
                    Expr::Nested(inner) => part(inner, name),
                    other => part(other, name),
                },
                _ => return None,
            },
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut parts = vec![take(expr)];
                parts.extend(substring_from.iter().chain(substring_for.iter()).map(|part| part.as_ref().clone()));
                call("substr", parts)
            }
            Expr::Position { expr, r#in } => call("instr", vec![take(r#in), take(expr)]),
            Expr::Trim { expr, .. } => call("trim", vec![take(expr)]),
            Expr::Function(function) => return self.function(function),
            _ => return None,
        };
        Some(new)
    }

    /// An item of an array. Vectors are counted from 0, other arrays from 1.
    fn element(&self, array: Expr, index: &Expr) -> Expr {
        let is_vector = self.types.of(&array).is_some_and(|name| name.ends_with("vector"));
        let first = crate::session::number(i32::from(!is_vector));
        let place = Expr::BinaryOp { left: Box::new(index.clone()), op: BinaryOperator::Minus, right: Box::new(first) };
        call("pg_element", vec![array, place])
    }

    fn function(&mut self, function: &mut Function) -> Option<Expr> {
        let name = last(&function.name);
        if name == "array"
            && let FunctionArguments::Subquery(query) = &mut function.args
        {
            return Some(collected(query));
        }
        let new = match name.as_str() {
            "array_agg" | "json_agg" | "jsonb_agg" => "json_group_array",
            "string_agg" => "group_concat",
            "bool_and" | "every" => "min",
            "bool_or" => "max",
            "json_build_object" | "jsonb_build_object" => "json_object",
            "char_length" | "character_length" => "length",
            "ascii" => "unicode",
            "strpos" => "instr",
            "btrim" => "trim",
            "now" | "clock_timestamp" | "statement_timestamp" | "transaction_timestamp" => {
                return Some(Expr::Identifier(Ident::new("CURRENT_TIMESTAMP")));
            }
            _ => return None,
        };
        function.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(new))]);
        None
    }
}

fn part(root: &Expr, name: &Ident) -> Expr {
    match (root, folded(name).as_str()) {
        (Expr::CompoundIdentifier(parts), "n") if parts.len() == 2 && parts[0].value.starts_with(MADE) => {
            let place = column(&parts[0].value, "key");
            Expr::BinaryOp { left: Box::new(place), op: BinaryOperator::Plus, right: Box::new(crate::session::number(1)) }
        }
        (root, _) => root.clone(),
    }
}

/// The rows of a question as an array.
fn collected(query: &mut Query) -> Expr {
    let name = "__element";
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(item) = select.projection.first_mut()
        && let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
    {
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(name) };
    }
    let text = format!("SELECT json_group_array({name}) FROM ({query}) AS __rows");
    let parsed = datafusion::sql::sqlparser::parser::Parser::parse_sql(&datafusion::sql::sqlparser::dialect::SQLiteDialect {}, &text);
    match parsed.ok().and_then(|mut statements| statements.pop()) {
        Some(Statement::Query(query)) => Expr::Subquery(query),
        _ => Expr::value(Value::Null),
    }
}

/// A cast, by what SQLite knows of types.
fn cast(expr: Expr, from: Option<&str>, to: &DataType) -> Expr {
    let target = type_name(to);
    let to_sqlite = |expr, data_type| Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None };
    match (of_cast(&target), target.as_str()) {
        (Some(_), "regclass" | "regtype" | "regproc" | "regprocedure" | "regnamespace" | "regrole" | "regoper" | "regcollation") => {
            call("pg_reg", vec![string(&target), expr])
        }
        (_, "text" | "varchar" | "bpchar" | "name" | "char") => match from {
            Some(reg) if reg.starts_with("reg") => call("pg_reg_text", vec![string(reg), expr]),
            Some("bool") => call("pg_bool_text", vec![expr]),
            _ => to_sqlite(expr, DataType::Text),
        },
        (_, "int2" | "int4" | "int8" | "oid" | "xid" | "int") => to_sqlite(expr, DataType::Integer(None)),
        (_, "float4" | "float8" | "numeric") => to_sqlite(expr, DataType::Real),
        (_, "bool") => call("pg_bool", vec![expr]),
        (_, array) if array.starts_with('_') || array == "int2vector" || array == "oidvector" => call("pg_array", vec![expr]),
        _ => expr,
    }
}

/// What gives rows, as a call that gives an array.
fn array(name: &str, mut arguments: Vec<Expr>) -> Expr {
    match name {
        "generate_series" => call("pg_series", arguments),
        "generate_subscripts" => call("pg_subscripts", arguments),
        "regexp_split_to_table" => call("string_to_array", arguments),
        _ if arguments.is_empty() => string("[]"),
        _ => arguments.swap_remove(0),
    }
}

/// The elements of an array as a table.
fn elements(array: Expr, table: &str) -> TableFactor {
    let args = TableFunctionArgs { args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(array))], settings: None };
    TableFactor::Table {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new("json_each"))]),
        alias: Some(TableAlias { explicit: true, name: Ident::new(table), columns: Vec::new(), at: None }),
        args: Some(args),
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// A value as a table with one row.
fn one_row(value: Expr, column: &str, table: &str) -> Option<TableFactor> {
    let text = format!("SELECT {value} AS \"{column}\"");
    let parsed = datafusion::sql::sqlparser::parser::Parser::parse_sql(&datafusion::sql::sqlparser::dialect::SQLiteDialect {}, &text);
    match parsed.ok()?.pop()? {
        Statement::Query(subquery) => Some(TableFactor::Derived {
            lateral: false,
            subquery,
            alias: Some(TableAlias { explicit: true, name: Ident::new(table), columns: Vec::new(), at: None }),
            sample: None,
        }),
        _ => None,
    }
}

fn column(table: &str, name: &str) -> Expr {
    Expr::CompoundIdentifier(vec![Ident::new(table), Ident::new(name)])
}

fn plain(args: &[FunctionArg]) -> Vec<Expr> {
    let expr = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    args.iter().filter_map(expr).collect()
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))).collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Whether a statement without tables asks for something that only the catalogue knows.
pub fn is_about_catalogue(statement: &mut Statement) -> bool {
    struct Look(bool);
    impl VisitorMut for Look {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            self.0 |= match expr {
                Expr::Function(function) => super::functions::is_known(&last(&function.name)),
                Expr::Cast { data_type, expr, .. } => type_name(data_type).starts_with("reg") && literal(expr).is_some(),
                _ => false,
            };
            ControlFlow::Continue(())
        }
    }
    let mut look = Look(false);
    let _ = statement.visit(&mut look);
    look.0
}
