//! What type an expression about the catalogue has, as far as its text tells: SQLite itself knows none.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, FunctionArguments, Query, SelectItem, SetExpr, TableFactor, Value, VisitorMut};
use pgwire::api::Type;

use super::functions;
use crate::session::{arguments, folded, last, literal, parameter, type_name};

/// Types of a statement's expressions, by the columns of the catalogue and the names that the statement gives.
pub struct Types<'a> {
    columns: &'a HashMap<String, &'static str>,
    aliases: HashMap<String, String>,
    parameters: Vec<Option<String>>,
}

impl<'a> Types<'a> {
    pub fn new(columns: &'a HashMap<String, &'static str>) -> Types<'a> {
        Types { columns, aliases: HashMap::new(), parameters: Vec::new() }
    }

    /// Of each column of a question.
    pub fn output(&self, query: &Query) -> Vec<Option<String>> {
        match query.body.as_ref() {
            SetExpr::Select(select) => {
                if let [SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)] = select.projection.as_slice()
                    && let [from] = select.from.as_slice()
                    && from.joins.is_empty()
                {
                    return match &from.relation {
                        TableFactor::Derived { subquery, .. } => self.output(subquery),
                        TableFactor::Table { name, .. } => {
                            let mut named = query.with.iter().flat_map(|with| &with.cte_tables);
                            named.find(|cte| folded(&cte.alias.name) == last(name)).map(|cte| self.output(&cte.query)).unwrap_or_default()
                        }
                        _ => Vec::new(),
                    };
                }
                let item = |item: &SelectItem| match item {
                    SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(self.of(expr)),
                    _ => None,
                };
                // Behind a `*` the places are not known.
                select.projection.iter().map_while(item).collect()
            }
            SetExpr::Query(query) => self.output(query),
            SetExpr::SetOperation { left, .. } => match left.as_ref() {
                SetExpr::Query(query) => self.output(query),
                body => self.output(&Query { body: Box::new(body.clone()), ..query.clone() }),
            },
            _ => Vec::new(),
        }
    }

    pub fn of(&self, expr: &Expr) -> Option<String> {
        let name = match expr {
            Expr::Identifier(name) => return self.column(&folded(name)),
            Expr::CompoundIdentifier(parts) => return self.column(&folded(parts.last()?)),
            Expr::Nested(inner) => return self.of(inner),
            Expr::Cast { data_type, .. } => return Some(type_name(data_type)),
            Expr::TypedString(typed) => return Some(type_name(&typed.data_type)),
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) if text.contains(['.', 'e']) => "numeric",
                Value::Number(text, _) if text.parse::<i32>().is_ok() => "int4",
                Value::Number(..) => "int8",
                Value::Boolean(_) => "bool",
                Value::SingleQuotedString(_) | Value::EscapedStringLiteral(_) => "text",
                _ => return None,
            },
            Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::AnyOp { .. }
            | Expr::AllOp { .. }
            | Expr::Exists { .. } => "bool",
            Expr::UnaryOp { op, expr } => match op.to_string().as_str() {
                "NOT" => "bool",
                _ => return self.of(expr),
            },
            Expr::BinaryOp { left, op, right } => match op.to_string().as_str() {
                "+" | "-" | "*" | "/" | "%" => return self.of(left).or_else(|| self.of(right)),
                "||" => match self.of(left) {
                    Some(array) if array.starts_with('_') => return Some(array),
                    _ => "text",
                },
                _ => "bool",
            },
            Expr::Case { conditions, else_result, .. } => {
                let results = conditions.iter().map(|when| &when.result).chain(else_result.iter().map(AsRef::as_ref));
                return results.into_iter().find_map(|result| self.of(result));
            }
            Expr::Subquery(query) => return self.output(query).into_iter().next().flatten(),
            Expr::Array(array) => {
                return Some(format!("_{}", array.elem.first().and_then(|e| self.of(e)).unwrap_or_else(|| "text".into())));
            }
            Expr::CompoundFieldAccess { root, .. } => {
                let array = self.of(root)?;
                return Some(match array.as_str() {
                    "int2vector" => "int2".into(),
                    "oidvector" => "oid".into(),
                    other => other.trim_start_matches('_').into(),
                });
            }
            Expr::Function(function) => {
                let name = last(&function.name);
                let first = || arguments(function).first().and_then(|expr| self.of(expr));
                match (name.as_str(), &function.args) {
                    ("array", FunctionArguments::Subquery(query)) => {
                        let element = self.output(query).into_iter().next().flatten().unwrap_or_else(|| "text".into());
                        return Some(format!("_{element}"));
                    }
                    ("coalesce" | "nullif" | "min" | "max" | "sum" | "greatest" | "least", _) => {
                        return arguments(function).iter().find_map(|expr| self.of(expr));
                    }
                    ("array_agg", _) => return Some(format!("_{}", first().unwrap_or_else(|| "text".into()))),
                    // A cast that has been translated.
                    ("pg_reg", _) => return arguments(function).first().and_then(|kind| literal(kind)).map(str::to_owned),
                    ("unnest" | "_pg_expandarray", _) => return first().map(|array| array.trim_start_matches('_').to_owned()),
                    ("count" | "row_number" | "rank", _) => "int8",
                    ("generate_series" | "generate_subscripts", _) => "int4",
                    (name, _) => functions::returns(name)?,
                }
            }
            _ => return None,
        };
        Some(name.to_owned())
    }

    fn column(&self, name: &str) -> Option<String> {
        self.aliases.get(name).cloned().or_else(|| self.columns.get(name).map(|name| (*name).to_owned()))
    }
}

impl VisitorMut for Types<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut datafusion::sql::sqlparser::ast::Select) -> ControlFlow<()> {
        for item in &select.projection {
            let SelectItem::ExprWithAlias { expr, alias } = item else { continue };
            let alias = folded(alias);
            if let Some(found) = self.of(expr)
                && !self.columns.contains_key(&alias)
            {
                self.aliases.insert(alias, found);
            }
        }
        ControlFlow::Continue(())
    }

    /// What a parameter is compared with says what it is.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::BinaryOp { left, right, .. } => {
                self.learn(left, self.of(right));
                self.learn(right, self.of(left));
            }
            Expr::AnyOp { left, right, .. } => {
                let element = self.of(left);
                self.learn(right, element.map(|name| format!("_{name}")));
            }
            Expr::InList { expr, list, .. } => {
                let name = self.of(expr);
                for item in list {
                    self.learn(item, name.clone());
                }
            }
            Expr::Like { expr: of, pattern, .. } | Expr::ILike { expr: of, pattern, .. } => {
                self.learn(pattern, Some("text".into()));
                self.learn(of, Some("text".into()));
            }
            Expr::Cast { expr, data_type, .. } => {
                let name = type_name(data_type);
                self.learn(expr, Some(name));
            }
            Expr::Value(_) => self.learn(expr, None),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Types<'_> {
    fn learn(&mut self, expr: &Expr, name: Option<String>) {
        let Some(place) = parameter(expr) else { return };
        if self.parameters.len() < place {
            self.parameters.resize(place, None);
        }
        let known = &mut self.parameters[place - 1];
        if known.is_none() {
            *known = name;
        }
    }

    /// What each parameter is; text where nothing tells.
    pub fn parameters(&self) -> Vec<Type> {
        self.parameters.iter().map(|name| name.as_deref().and_then(of_cast).unwrap_or(Type::TEXT)).collect()
    }
}

/// A type by its name in pg_type.
pub fn of_cast(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::BOOL,
        "bytea" => Type::BYTEA,
        "char" => Type::CHAR,
        "name" => Type::NAME,
        "int8" => Type::INT8,
        "int2" => Type::INT2,
        "int4" => Type::INT4,
        "text" | "xid" | "pg_node_tree" | "aclitem" => Type::TEXT,
        "oid" => Type::OID,
        "json" => Type::JSON,
        "jsonb" => Type::JSONB,
        "float4" => Type::FLOAT4,
        "float8" => Type::FLOAT8,
        "varchar" => Type::VARCHAR,
        "bpchar" => Type::BPCHAR,
        "numeric" => Type::NUMERIC,
        "timestamp" => Type::TIMESTAMP,
        "timestamptz" => Type::TIMESTAMPTZ,
        "date" => Type::DATE,
        "time" => Type::TIME,
        "interval" => Type::INTERVAL,
        "regclass" => Type::REGCLASS,
        "regtype" => Type::REGTYPE,
        "regproc" | "regprocedure" => Type::REGPROC,
        "regnamespace" => Type::REGNAMESPACE,
        "regrole" => Type::REGROLE,
        "regoper" | "regcollation" => Type::OID,
        "int2vector" => Type::INT2_VECTOR,
        "oidvector" => Type::OID_VECTOR,
        "_bool" => Type::BOOL_ARRAY,
        "_int2" => Type::INT2_ARRAY,
        "_int4" => Type::INT4_ARRAY,
        "_int8" => Type::INT8_ARRAY,
        "_oid" => Type::OID_ARRAY,
        "_name" => Type::NAME_ARRAY,
        "_char" => Type::CHAR_ARRAY,
        "_float8" => Type::FLOAT8_ARRAY,
        "_varchar" => Type::VARCHAR_ARRAY,
        name if name.starts_with('_') => Type::TEXT_ARRAY,
        _ => return None,
    })
}
