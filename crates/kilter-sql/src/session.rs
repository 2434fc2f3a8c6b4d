//! What is known of whoever asks, and what stands in a statement for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    LimitClause, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, Statement, TimezoneInfo, Value, VisitMut, VisitorMut,
};

use pgwire::api::Type;

use crate::catalogue::of_cast;
use crate::error::{Result, SqlError};
use crate::rights::Rights;
use crate::tables::SEARCH_PATH;

/// The version of PostgreSQL whose behaviour clients may count on. Every driver can read it.
pub const SERVER_VERSION: &str = "16.4";

/// Who asks, and the settings of the session.
#[derive(Clone, Debug)]
pub struct Session {
    pub user: String,
    pub database: String,
    pub process: i32,
    /// What whoever asks may see.
    pub rights: Rights,
    settings: BTreeMap<String, String>,
}

impl Session {
    pub fn new(user: impl Into<String>, database: impl Into<String>, rights: Rights) -> Session {
        Session { user: user.into(), database: database.into(), process: 0, rights, settings: BTreeMap::new() }
    }

    /// The setting of a name, as the session changed it or as it is by itself.
    pub fn setting(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let value = match name.as_str() {
            "session_authorization" => self.user.clone(),
            _ => match self.settings.get(&name) {
                Some(value) => value.clone(),
                None => default(&name)?.to_owned(),
            },
        };
        Some(value)
    }

    /// Settings that nothing depends on are kept as they are told.
    ///
    /// # Errors
    /// When there are too many, or one is too long.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let name = name.to_lowercase();
        if name.len() + value.len() > SETTING_BYTES {
            return Err(SqlError::new("22023", format!("a setting has at most {SETTING_BYTES} bytes")));
        }
        // Times are written in UTC, whatever a client would like, and say so.
        if FIXED.contains(&name.as_str()) {
            return Ok(());
        }
        if value.eq_ignore_ascii_case("default") {
            self.reset(&name);
            return Ok(());
        }
        if self.settings.len() == SETTINGS && !self.settings.contains_key(&name) {
            return Err(SqlError::new("53400", format!("a session has at most {SETTINGS} settings")).hint("RESET ALL forgets them"));
        }
        self.settings.insert(name, value.to_owned());
        Ok(())
    }

    pub fn reset(&mut self, name: &str) {
        match name {
            "all" => self.settings.clear(),
            name => drop(self.settings.remove(name)),
        }
    }

    /// Every setting with its value.
    pub fn settings(&self) -> Vec<(String, String)> {
        let names: BTreeSet<&str> = DEFAULTS.iter().map(|(name, _)| *name).chain(self.settings.keys().map(String::as_str)).collect();
        names.into_iter().filter_map(|name| Some((name.to_owned(), self.setting(name)?))).collect()
    }
}

/// What a session keeps of what it is told.
const SETTINGS: usize = 64;
const SETTING_BYTES: usize = 1024;

const FIXED: &[&str] = &[
    "timezone",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "standard_conforming_strings",
    "integer_datetimes",
    "server_version",
    "server_encoding",
    "bytea_output",
    "search_path",
];

const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("block_size", "8192"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("search_path", "public, events"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "160004"),
    ("session_authorization", ""),
    ("ssl", "off"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("timezone", "UTC"),
    ("transaction_deferrable", "off"),
    ("transaction_isolation", "repeatable read"),
    ("transaction_read_only", "on"),
];

fn default(name: &str) -> Option<&'static str> {
    DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// The words that `SELECT version()` answers.
pub fn version() -> String {
    format!("PostgreSQL {SERVER_VERSION} (Kilter {})", env!("CARGO_PKG_VERSION"))
}

/// Writes what a session knows in place of the functions that ask for it, and takes away what only names where a function or type lies.
pub fn fill(statement: &mut Statement, session: &Session) {
    let _ = statement.visit(&mut Fill(session));
}

struct Fill<'a>(&'a Session);

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => {
                unqualify(&mut function.name);
                if let Some(value) = known(function, self.0) {
                    *expr = value;
                }
            }
            Expr::Identifier(name) if name.quote_style.is_none() => {
                let text = match name.value.to_lowercase().as_str() {
                    "current_schema" => SEARCH_PATH[0],
                    "current_role" | "session_user" => &self.0.user,
                    _ => return ControlFlow::Continue(()),
                };
                *expr = string(text);
            }
            Expr::Cast { data_type, .. } => plain(data_type),
            Expr::TypedString(typed) => plain(&mut typed.data_type),
            Expr::Collate { expr: inner, .. } => *expr = std::mem::replace(inner, Expr::value(Value::Null)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// A type without where it lies, and without how long its arrays are said to be: PostgreSQL has any length in each.
fn plain(data_type: &mut DataType) {
    match data_type {
        DataType::Custom(name, _) => unqualify(name),
        DataType::Array(ArrayElemTypeDef::SquareBracket(inner, size)) => {
            *size = None;
            plain(inner);
        }
        DataType::Array(ArrayElemTypeDef::AngleBracket(inner) | ArrayElemTypeDef::Parenthesis(inner)) => plain(inner),
        _ => {}
    }
}

fn unqualify(name: &mut ObjectName) {
    let is_catalogue = |part: &ObjectNamePart| {
        part.as_ident().is_some_and(|ident| matches!(ident.value.to_lowercase().as_str(), "pg_catalog" | "information_schema"))
    };
    if name.0.len() == 2 && is_catalogue(&name.0[0]) {
        name.0.remove(0);
    }
}

/// The last part of a name, in small letters.
pub fn last(name: &ObjectName) -> String {
    name.0.last().and_then(ObjectNamePart::as_ident).map_or_else(String::new, |ident| ident.value.to_lowercase())
}

pub fn string(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_owned()))
}

pub fn number(n: impl ToString) -> Expr {
    Expr::value(Value::Number(n.to_string(), false))
}

/// The arguments of a function as expressions.
pub fn arguments(function: &Function) -> Vec<&Expr> {
    match &function.args {
        FunctionArguments::List(list) => list
            .args
            .iter()
            .filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
                | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. }
                | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. } => Some(expr),
                _ => None,
            })
            .collect(),
        FunctionArguments::None | FunctionArguments::Subquery(_) => Vec::new(),
    }
}

/// The text of a literal.
pub fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => literal(inner),
        Expr::Cast { expr, .. } => literal(expr),
        _ => None,
    }
}

fn known(function: &Function, session: &Session) -> Option<Expr> {
    let arguments = arguments(function);
    let value = match (last(&function.name).as_str(), arguments.as_slice()) {
        ("version", []) => string(&version()),
        ("current_database" | "current_catalog", []) => string(&session.database),
        ("current_schema", []) => string(SEARCH_PATH[0]),
        ("current_user" | "session_user" | "user" | "current_role" | "getpgusername", []) => string(&session.user),
        ("pg_backend_pid", []) => number(session.process),
        ("getdatabaseencoding", []) => string("UTF8"),
        ("current_setting", [name, ..]) => session.setting(literal(name)?).map_or(Expr::value(Value::Null), |value| string(&value)),
        ("set_config", [_, value, _]) => (*value).clone(),
        ("pg_is_in_recovery" | "pg_is_wal_replay_paused", []) => Expr::value(Value::Boolean(false)),
        ("pg_advisory_unlock_all", []) => string(""),
        ("pg_my_temp_schema" | "txid_current_if_assigned", []) => number(0),
        ("inet_server_addr" | "inet_server_port" | "inet_client_addr" | "inet_client_port", []) => Expr::value(Value::Null),
        _ => return None,
    };
    Some(value)
}

/// Types that parameters are cast to, by place.
pub fn casts(statement: &mut Statement) -> BTreeMap<usize, Type> {
    struct Casts(BTreeMap<usize, Type>);
    impl VisitorMut for Casts {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Cast { expr, data_type, .. } = expr
                && let Some(place) = parameter(expr)
                && let Some(told) = of_cast(&type_name(data_type))
            {
                self.0.insert(place, told);
            }
            ControlFlow::Continue(())
        }
    }
    let mut found = Casts(BTreeMap::new());
    let _ = statement.visit(&mut found);
    found.0
}

/// Says of parameters what their client says that they are. Texts stay open: clients send them for everything, and mean what stands beside them.
pub fn declare(statement: &mut Statement, declared: &[Option<Type>]) {
    struct Declare<'a> {
        declared: &'a [Option<Type>],
        /// Those that count rows, which are numbers anyhow and may not be expressions.
        counts: BTreeSet<usize>,
    }
    impl VisitorMut for Declare<'_> {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let bare = |expr: Option<&Expr>| expr.and_then(parameter);
            match &query.limit_clause {
                Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                    self.counts.extend(bare(limit.as_ref()));
                    self.counts.extend(bare(offset.as_ref().map(|offset| &offset.value)));
                }
                Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                    self.counts.extend([offset, limit].into_iter().filter_map(parameter))
                }
                None => {}
            }
            self.counts.extend(bare(query.fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref())));
            ControlFlow::Continue(())
        }
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Value(_) = expr
                && let Some(place) = parameter(expr).filter(|place| !self.counts.contains(place))
                && let Some(Some(declared)) = self.declared.get(place - 1)
                && let Some(data_type) = castable(declared)
            {
                let inner = Box::new(std::mem::replace(expr, Expr::value(Value::Null)));
                *expr = Expr::Cast { kind: CastKind::Cast, expr: inner, data_type, array: false, format: None };
            }
            ControlFlow::Continue(())
        }
    }
    let _ = statement.visit(&mut Declare { declared, counts: BTreeSet::new() });
}

/// A type as a cast names it, where a cast keeps every value.
fn castable(told: &Type) -> Option<DataType> {
    Some(match *told {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::SmallInt(None),
        Type::INT4 => DataType::Integer(None),
        Type::INT8 => DataType::BigInt(None),
        Type::FLOAT4 => DataType::Real,
        Type::FLOAT8 => DataType::Double(ExactNumberInfo::None),
        Type::DATE => DataType::Date,
        Type::TIMESTAMP => DataType::Timestamp(Some(6), TimezoneInfo::None),
        Type::TIMESTAMPTZ => DataType::Timestamp(Some(6), TimezoneInfo::WithTimeZone),
        Type::TIME => DataType::Time(None, TimezoneInfo::None),
        Type::INTERVAL => DataType::Interval { fields: None, precision: None },
        _ => return None,
    })
}

/// The place of a parameter, counted from 1.
pub fn parameter(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => name.strip_prefix('$')?.parse().ok().filter(|place| (1..=1000).contains(place)),
            _ => None,
        },
        Expr::Nested(inner) => parameter(inner),
        _ => None,
    }
}

/// The tables that a statement names, without those that it makes itself.
pub fn relations(statement: &mut Statement) -> Vec<Vec<String>> {
    let mut seen = Relations { made: made(statement), found: Vec::new(), place: |_: &str| None };
    let _ = statement.visit(&mut seen);
    seen.found
}

/// Says of names without a schema in which one they lie.
pub fn place(statement: &mut Statement, schema_of: impl Fn(&str) -> Option<&'static str>) {
    let mut places = Relations { made: made(statement), found: Vec::new(), place: schema_of };
    let _ = statement.visit(&mut places);
}

struct Relations<F> {
    made: BTreeSet<String>,
    found: Vec<Vec<String>>,
    place: F,
}

impl<F: Fn(&str) -> Option<&'static str>> VisitorMut for Relations<F> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        let parts: Vec<String> = relation.0.iter().filter_map(ObjectNamePart::as_ident).map(folded).collect();
        if let [name] = parts.as_slice() {
            if self.made.contains(name) {
                return ControlFlow::Continue(());
            }
            if let Some(schema) = (self.place)(name) {
                relation.0.insert(0, ObjectNamePart::Identifier(Ident::new(schema)));
            }
        }
        self.found.push(parts);
        ControlFlow::Continue(())
    }
}

/// An identifier as PostgreSQL understands it.
pub fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// Names of the tables that a statement defines for itself.
fn made(statement: &mut Statement) -> BTreeSet<String> {
    struct Made(BTreeSet<String>);
    impl VisitorMut for Made {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            self.0.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| folded(&cte.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let mut found = Made(BTreeSet::new());
    let _ = statement.visit(&mut found);
    found.0
}

/// What PostgreSQL would call the columns of a question, where that can be told from its text.
pub fn column_names(statement: &Statement) -> Option<Vec<String>> {
    let Statement::Query(query) = statement else { return None };
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(inner) => body = inner.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    };
    select
        .projection
        .iter()
        .map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            SelectItem::UnnamedExpr(expr) => Some(name_of(expr)),
            _ => None,
        })
        .collect()
}

pub fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(name) => folded(name),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(String::new, folded),
        Expr::Function(function) => last(&function.name),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => name_of(inner),
        Expr::Cast { expr, data_type, .. } => match name_of(expr) {
            name if name == "?column?" => type_name(data_type),
            name => name,
        },
        Expr::Case { .. } => "case".into(),
        Expr::Extract { .. } => "extract".into(),
        Expr::Exists { .. } => "exists".into(),
        Expr::Array(_) => "array".into(),
        Expr::Ceil { .. } => "ceil".into(),
        Expr::Floor { .. } => "floor".into(),
        Expr::Substring { .. } => "substring".into(),
        Expr::Trim { .. } => "btrim".into(),
        Expr::Position { .. } => "position".into(),
        Expr::CompoundFieldAccess { root, .. } => name_of(root),
        Expr::Subquery(query) => {
            column_names(&Statement::Query(query.clone())).and_then(|names| names.into_iter().next()).unwrap_or_else(|| "?column?".into())
        }
        _ => "?column?".into(),
    }
}

/// A type's name in pg_type.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Text | DataType::String(_) => "text".into(),
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::CharVarying(_) => "varchar".into(),
        DataType::Char(_) | DataType::Character(_) => "bpchar".into(),
        DataType::SmallInt(_) | DataType::Int2(_) => "int2".into(),
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4".into(),
        DataType::BigInt(_) | DataType::Int8(_) => "int8".into(),
        DataType::Real | DataType::Float4 => "float4".into(),
        DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 | DataType::Float(_) => "float8".into(),
        DataType::Boolean | DataType::Bool => "bool".into(),
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => "numeric".into(),
        DataType::Date => "date".into(),
        DataType::Timestamp(_, zone) => match zone.to_string().contains("WITH TIME ZONE") || zone.to_string().contains("TZ") {
            true => "timestamptz".into(),
            false => "timestamp".into(),
        },
        DataType::Bytea => "bytea".into(),
        DataType::Uuid => "uuid".into(),
        DataType::JSON => "json".into(),
        DataType::JSONB => "jsonb".into(),
        DataType::Regclass => "regclass".into(),
        DataType::Array(element) => {
            let inner = match element {
                ArrayElemTypeDef::AngleBracket(inner)
                | ArrayElemTypeDef::SquareBracket(inner, _)
                | ArrayElemTypeDef::Parenthesis(inner) => type_name(inner),
                ArrayElemTypeDef::None => "text".into(),
            };
            format!("_{inner}")
        }
        DataType::Custom(name, _) => last(name),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{self, Command};

    #[test]
    fn an_array_has_any_length() {
        let text = "SELECT a::BIGINT[2000000000], TRY_CAST(b AS FLOAT8[3][4]) FROM t WHERE c::pg_catalog.text[5] IS NULL";
        let Command::Ask(statement) = command::parse(text).unwrap().remove(0) else { panic!("no question") };
        let mut statement = Statement::clone(&statement);
        fill(&mut statement, &Session::new("a", "b", Rights::Everything));
        let filled = statement.to_string();
        assert!(!filled.contains(|c: char| c.is_ascii_digit() && c != '8') && filled.contains("FLOAT8[][]"), "{filled}");
    }
}
