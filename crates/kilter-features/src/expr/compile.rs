//! From text to a typed tree: sqlparser reads the syntax, this file gives every part its type or says why it has none.

use std::cmp::Ordering;
use std::ops::Range;

use kilter_core::{CompactString, DataType, EventTime, Problem, Span, Value};
use sqlparser::ast::{self, BinaryOperator, Expr, Spanned, UnaryOperator};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::dialect::Bounded;
use super::functions::{self, Param, Returns};
use super::node::{Comparison, Eval, Like, Node};
use super::{MAX_TEXT_BYTES, Scope, byte_at};

/// Deeper nesting is refused: evaluation recurses.
const MAX_DEPTH: usize = 150;

/// The first float beyond int64.
const TWO_TO_63: f64 = (1u64 << 63) as f64;

pub(super) fn compile(text: &str, scope: &Scope) -> Result<(Node, Option<DataType>), Problem> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Problem::new("expression_too_long", format!("expression of {} bytes", text.len()))
            .hint(format!("the limit is {MAX_TEXT_BYTES} bytes")));
    }
    if text.trim().is_empty() {
        return Err(Problem::new("syntax", "an expression is expected here"));
    }
    let compiler = Compiler { text, scope };
    let tree = compiler.parse()?;
    let typed = compiler.typed(&tree, 0)?;
    match typed.ty {
        Ty::Interval => Err(compiler.problem("type_mismatch", "an interval is not a value by itself", &tree).hint("add it to a timestamp")),
        Ty::Null => Ok((typed.node, None)),
        Ty::Of(t) => Ok((typed.node, Some(t))),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ty {
    /// Always null.
    Null,
    Of(DataType),
    /// A constant length of time; lives only beside a timestamp.
    Interval,
}

impl Ty {
    fn name(self) -> &'static str {
        match self {
            Ty::Null => "null",
            Ty::Of(t) => t.name(),
            Ty::Interval => "interval",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Ty::Of(t) if t.is_numeric())
    }
}

const INT: Ty = Ty::Of(DataType::Int64);
const FLOAT: Ty = Ty::Of(DataType::Float64);
const BOOL: Ty = Ty::Of(DataType::Bool);
const TEXT: Ty = Ty::Of(DataType::String);
const TIME: Ty = Ty::Of(DataType::Timestamp);

struct Typed {
    node: Node,
    ty: Ty,
}

impl Typed {
    fn new(node: Node, ty: Ty) -> Typed {
        Typed { node: node.folded(), ty }
    }

    fn null() -> Typed {
        Typed { node: Node::Const(Value::Null), ty: Ty::Null }
    }
}

struct Compiler<'a> {
    text: &'a str,
    scope: &'a Scope,
}

impl Compiler<'_> {
    fn parse(&self) -> Result<Expr, Problem> {
        let dialect = Bounded::default();
        let mut parser = Parser::new(&dialect).try_with_sql(self.text).map_err(|e| self.syntax(e))?;
        let tree = parser.parse_expr().map_err(|e| self.syntax(e))?;
        let next = parser.peek_token();
        match next.token {
            Token::EOF => Ok(tree),
            token => {
                let problem = Problem::new("syntax", format!("`{token}` is not expected here"));
                Err(match self.range(next.span) {
                    Some(at) => problem.at(at),
                    None => problem,
                })
            }
        }
    }

    /// The parser's complaint without its own way of saying where.
    fn syntax(&self, error: ParserError) -> Problem {
        let message = match error {
            ParserError::TokenizerError(m) | ParserError::ParserError(m) => m,
            ParserError::RecursionLimitExceeded => return too_deep(),
        };
        let (what, place) = match message.rsplit_once(" at Line: ") {
            Some((what, place)) => (what, place.split_once(", Column: ")),
            None => (message.as_str(), None),
        };
        let mut problem = Problem::new("syntax", what.replace("found: EOF", "found the end").replace("Expected:", "expected"));
        if let Some(at) = place.and_then(|(l, c)| byte_at(self.text, l.parse().ok()?, c.parse().ok()?)) {
            let end = self.text[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.text.len() - at);
            let first = self.text[at..].chars().next().map_or(0, char::len_utf8);
            problem = problem.at(at..at + end.max(first));
        }
        problem
    }

    fn range(&self, span: sqlparser::tokenizer::Span) -> Option<Range<usize>> {
        let start = byte_at(self.text, span.start.line, span.start.column)?;
        let end = byte_at(self.text, span.end.line, span.end.column)?;
        (start <= end).then_some(start..end)
    }

    fn problem(&self, code: &'static str, message: impl Into<String>, at: &Expr) -> Problem {
        let problem = Problem::new(code, message);
        match self.range(at.span()) {
            Some(range) => problem.at(range),
            None => problem,
        }
    }

    fn refuse<T>(&self, what: &str, at: &Expr) -> Result<T, Problem> {
        Err(self
            .problem("not_supported", format!("{what} has no place in an expression over one row"), at)
            .hint("operators, CASE and the functions of docs/reference/expressions.md"))
    }

    /// The text of a part, for messages.
    fn quote(&self, at: &Expr) -> String {
        match self.range(at.span()) {
            Some(range) if !range.is_empty() && range.len() <= 40 => format!("`{}`", &self.text[range]),
            _ => match at.to_string() {
                s if s.len() <= 40 => format!("`{s}`"),
                _ => "this part".into(),
            },
        }
    }

    fn typed(&self, e: &Expr, depth: usize) -> Result<Typed, Problem> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let d = depth + 1;
        match e {
            Expr::Nested(inner) => self.typed(inner, d),
            Expr::Value(v) => self.literal(&v.value, e),
            Expr::Identifier(id) => self.column(None, &id.value, e),
            Expr::CompoundIdentifier(ids) => match ids.as_slice() {
                [q, name] => self.column(Some(&q.value), &name.value, e),
                _ => Err(self.problem("unknown_column", format!("{} has too many dots", self.quote(e)), e)),
            },
            Expr::UnaryOp { op, expr } => self.unary(*op, expr, e, d),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right, e, d),
            Expr::IsNull(a) => Ok(Typed::new(Node::IsNull(Box::new(self.plain(a, d)?.node)), BOOL)),
            Expr::IsNotNull(a) => Ok(not(Typed::new(Node::IsNull(Box::new(self.plain(a, d)?.node)), BOOL))),
            Expr::IsTrue(a) => self.is(true, a, d),
            Expr::IsFalse(a) => self.is(false, a, d),
            Expr::IsNotTrue(a) => self.is(true, a, d).map(not),
            Expr::IsNotFalse(a) => self.is(false, a, d).map(not),
            Expr::IsUnknown(a) => Ok(Typed::new(Node::IsNull(Box::new(self.boolean(a, d)?.node)), BOOL)),
            Expr::IsNotUnknown(a) => Ok(not(Typed::new(Node::IsNull(Box::new(self.boolean(a, d)?.node)), BOOL))),
            Expr::Between { expr, negated, low, high } => {
                let low = self.compared(Comparison::Ge, expr, low, e, d)?;
                let high = self.compared(Comparison::Le, expr, high, e, d)?;
                let both = Typed::new(Node::And(Box::new([low.node, high.node])), BOOL);
                Ok(if *negated { not(both) } else { both })
            }
            Expr::InList { expr, list, negated } => {
                let value = self.plain(expr, d)?;
                let mut items = Vec::new();
                for item in list {
                    let typed = self.plain(item, d)?;
                    self.comparable("IN", value.ty, typed.ty, expr, item)?;
                    items.push(typed.node);
                }
                let found = Typed::new(Node::In(Box::new(value.node), items.into()), BOOL);
                Ok(if *negated { not(found) } else { found })
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => self.like(expr, pattern, escape_char, *negated, false, d),
            Expr::ILike { negated, any: false, expr, pattern, escape_char } => self.like(expr, pattern, escape_char, *negated, true, d),
            Expr::Case { operand, conditions, else_result, .. } => {
                let mut tests = Vec::new();
                let mut results = Vec::new();
                for when in conditions {
                    tests.push(match operand {
                        Some(operand) => self.compared(Comparison::Eq, operand, &when.condition, &when.condition, d)?.node,
                        None => self.boolean(&when.condition, d)?.node,
                    });
                    results.push((&when.result, self.plain(&when.result, d)?));
                }
                let otherwise = match else_result {
                    Some(expr) => (&**expr, self.plain(expr, d)?),
                    None => (e, Typed::null()),
                };
                results.push(otherwise);
                let (mut nodes, ty) = self.unified("CASE", results)?;
                let otherwise = nodes.pop().unwrap_or(Node::Const(Value::Null));
                Ok(Typed::new(Node::Case(tests.into_iter().zip(nodes).collect(), Box::new(otherwise)), ty))
            }
            Expr::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, expr, data_type, .. } => {
                let value = self.plain(expr, d)?;
                self.cast(value, &data_type.to_string(), e)
            }
            Expr::TypedString(typed) => match (&typed.data_type.to_string().to_lowercase()[..], typed.value.value.clone().into_string()) {
                ("timestamp" | "date" | "datetime", Some(text)) => match EventTime::parse(&text) {
                    Some(t) => Ok(Typed::new(Node::Const(Value::Time(t)), TIME)),
                    None => Err(self
                        .problem("bad_literal", format!("'{text}' is not a time"), e)
                        .hint("write it as timestamp '2026-01-31 10:00:00' (UTC) or timestamp '2026-01-31T10:00:00+01:00'")),
                },
                (name, _) => self.refuse(&format!("a literal of type {name}"), e),
            },
            Expr::Interval(interval) => self.interval(interval, e),
            Expr::Extract { field, expr, .. } => {
                let name = match field.to_string().to_lowercase().as_str() {
                    "dow" | "isodow" | "dayofweek" | "day_of_week" => "day_of_week".to_string(),
                    other => other.trim_end_matches('s').to_string(),
                };
                let fields = ["year", "month", "day", "hour", "minute", "second", "day_of_week", "epoch"];
                match functions::find(&name).filter(|f| fields.contains(&f.name)) {
                    Some(f) => self.call(f, &[expr], e, d),
                    None => Err(self
                        .problem("unknown_field", format!("unknown field `{field}` of a timestamp"), e)
                        .hint(format!("valid here: {}, isodow", kilter_core::list(fields)))),
                }
            }
            Expr::Ceil { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.named("ceil", &[expr], e, d)
            }
            Expr::Floor { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.named("floor", &[expr], e, d)
            }
            Expr::Trim { trim_where: None, trim_what: None, expr, trim_characters: None } => self.named("trim", &[expr], e, d),
            Expr::Function(f) => self.function(f, e, d),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => self.refuse("a subquery", e),
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => self.refuse("`*`", e),
            Expr::SimilarTo { .. } | Expr::RLike { .. } => self.refuse("a regular expression", e),
            Expr::AtTimeZone { .. } => self.refuse("AT TIME ZONE (times are UTC)", e),
            Expr::Tuple(_) => self.refuse("a list in parentheses", e),
            _ => self.refuse(&self.quote(e), e),
        }
    }

    /// As `typed`, without intervals.
    fn plain(&self, e: &Expr, depth: usize) -> Result<Typed, Problem> {
        let typed = self.typed(e, depth)?;
        match typed.ty {
            Ty::Interval => Err(self
                .problem("type_mismatch", format!("{} is an interval", self.quote(e)), e)
                .hint("intervals can only be added to or taken from a timestamp; a difference of timestamps is in seconds")),
            _ => Ok(typed),
        }
    }

    fn boolean(&self, e: &Expr, depth: usize) -> Result<Typed, Problem> {
        let typed = self.plain(e, depth)?;
        match typed.ty {
            Ty::Null | BOOL => Ok(typed),
            other => Err(self
                .problem("type_mismatch", format!("{} is {}; a condition is needed here", self.quote(e), other.name()), e)
                .hint("compare it with something, as in `amount > 0`")),
        }
    }

    fn is(&self, wanted: bool, e: &Expr, depth: usize) -> Result<Typed, Problem> {
        Ok(Typed::new(Node::Is(wanted, Box::new(self.boolean(e, depth)?.node)), BOOL))
    }

    fn literal(&self, value: &ast::Value, e: &Expr) -> Result<Typed, Problem> {
        let (value, ty) = match value {
            ast::Value::Number(digits, false) => match (digits.parse::<i64>(), digits.parse::<f64>()) {
                (Ok(i), _) => (Value::Int(i), INT),
                (_, Ok(x)) if x.is_finite() => (Value::Float(x), FLOAT),
                _ => return Err(self.problem("bad_literal", format!("`{digits}` is not a number that fits"), e)),
            },
            ast::Value::SingleQuotedString(s) => (Value::text(s), TEXT),
            ast::Value::Boolean(b) => (Value::Bool(*b), BOOL),
            ast::Value::Null => (Value::Null, Ty::Null),
            ast::Value::DoubleQuotedString(s) => return self.column(None, s, e),
            _ => return self.refuse(&self.quote(e), e),
        };
        Ok(Typed { node: Node::Const(value), ty })
    }

    fn column(&self, qualifier: Option<&str>, name: &str, e: &Expr) -> Result<Typed, Problem> {
        match self.scope.resolve(qualifier, name) {
            Ok((slot, data_type)) => Ok(Typed { node: Node::Slot(slot), ty: Ty::Of(data_type) }),
            Err(problem) => Err(match self.range(e.span()) {
                Some(range) => problem.at(range),
                None => problem,
            }),
        }
    }

    fn unary(&self, op: UnaryOperator, a: &Expr, e: &Expr, d: usize) -> Result<Typed, Problem> {
        match op {
            UnaryOperator::Not | UnaryOperator::BangNot => Ok(not(self.boolean(a, d)?)),
            UnaryOperator::Minus | UnaryOperator::Plus => {
                // The smallest int64 has no positive twin to negate.
                if let (UnaryOperator::Minus, Expr::Value(v)) = (op, a)
                    && let ast::Value::Number(digits, false) = &v.value
                    && let Ok(i) = format!("-{digits}").parse::<i64>()
                {
                    return Ok(Typed { node: Node::Const(Value::Int(i)), ty: INT });
                }
                let value = self.plain(a, d)?;
                match value.ty {
                    Ty::Null => Ok(value),
                    ty if !ty.is_number() => Err(self.needs("-", "a number", a, ty)),
                    _ if op == UnaryOperator::Plus => Ok(value),
                    ty => Ok(Typed::new(Node::Strict(negate, Box::new([value.node])), ty)),
                }
            }
            _ => self.refuse(&format!("`{op}`"), e),
        }
    }

    fn needs(&self, who: &str, what: &str, e: &Expr, ty: Ty) -> Problem {
        self.problem("type_mismatch", format!("{} is {}; {who} needs {what}", self.quote(e), ty.name()), e)
    }

    fn binary(&self, left: &Expr, op: &BinaryOperator, right: &Expr, e: &Expr, d: usize) -> Result<Typed, Problem> {
        use BinaryOperator as B;
        let comparison = match op {
            B::Eq => Some(Comparison::Eq),
            B::NotEq => Some(Comparison::Ne),
            B::Lt => Some(Comparison::Lt),
            B::LtEq => Some(Comparison::Le),
            B::Gt => Some(Comparison::Gt),
            B::GtEq => Some(Comparison::Ge),
            _ => None,
        };
        if let Some(comparison) = comparison {
            return self.compared(comparison, left, right, e, d);
        }
        match op {
            B::And | B::Or => {
                let pair = Box::new([self.boolean(left, d)?.node, self.boolean(right, d)?.node]);
                Ok(Typed::new(if *op == B::And { Node::And(pair) } else { Node::Or(pair) }, BOOL))
            }
            B::StringConcat => {
                let (a, b) = (self.plain(left, d)?, self.plain(right, d)?);
                for (typed, part) in [(&a, left), (&b, right)] {
                    if !matches!(typed.ty, Ty::Null | TEXT) {
                        return Err(self.needs("||", "a string", part, typed.ty).hint("cast it: x::string"));
                    }
                }
                Ok(Typed::new(Node::Strict(concat, Box::new([a.node, b.node])), TEXT))
            }
            B::Plus | B::Minus | B::Multiply | B::Divide | B::Modulo => {
                let (a, b) = (self.typed(left, d)?, self.typed(right, d)?);
                self.arithmetic(op, a, b, left, right, e)
            }
            _ => self.refuse(&format!("`{op}`"), e),
        }
    }

    fn arithmetic(&self, op: &BinaryOperator, a: Typed, b: Typed, left: &Expr, right: &Expr, e: &Expr) -> Result<Typed, Problem> {
        use BinaryOperator as B;
        let strict = |eval: Eval, a: Typed, b: Typed, ty| Ok(Typed::new(Node::Strict(eval, Box::new([a.node, b.node])), ty));
        match (a.ty, op, b.ty) {
            (TIME, B::Minus, TIME) => return strict(seconds_between, a, b, FLOAT),
            (TIME, B::Plus, Ty::Interval) => return strict(later, a, b, TIME),
            (TIME, B::Minus, Ty::Interval) => return strict(earlier, a, b, TIME),
            (Ty::Interval, B::Plus, TIME) => return strict(later, b, a, TIME),
            (TIME, B::Plus | B::Minus, ty) | (ty, B::Plus, TIME) if ty.is_number() => {
                return Err(self
                    .problem("type_mismatch", format!("`{op}` joins timestamp with {}", ty.name()), e)
                    .hint("write a length of time as interval '7 days'"));
            }
            (TIME, B::Minus, Ty::Null) | (Ty::Null, B::Minus, TIME) => return Ok(Typed { node: Node::Const(Value::Null), ty: FLOAT }),
            _ => {}
        }
        for (typed, part) in [(&a, left), (&b, right)] {
            if typed.ty != Ty::Null && !typed.ty.is_number() {
                let problem = self.needs(&op.to_string(), "a number", part, typed.ty);
                return Err(match typed.ty {
                    TEXT if *op == B::Plus => problem.hint("strings are joined with ||"),
                    TEXT => problem.hint("cast it: x::float64"),
                    BOOL => problem.hint("count with if(condition, 1, 0)"),
                    ty => hinted(problem, taking_out(ty)),
                });
            }
        }
        let whole = a.ty != FLOAT && b.ty != FLOAT;
        let (eval, ty): (Eval, Ty) = match op {
            B::Divide => (divide, FLOAT),
            B::Plus if whole => (|v| int(v, i64::checked_add), INT),
            B::Minus if whole => (|v| int(v, i64::checked_sub), INT),
            B::Multiply if whole => (|v| int(v, i64::checked_mul), INT),
            B::Modulo if whole => (|v| int(v, i64::checked_rem), INT),
            B::Plus => (|v| functions::float(functions::number(&v[0]) + functions::number(&v[1])), FLOAT),
            B::Minus => (|v| functions::float(functions::number(&v[0]) - functions::number(&v[1])), FLOAT),
            B::Multiply => (|v| functions::float(functions::number(&v[0]) * functions::number(&v[1])), FLOAT),
            _ => (|v| functions::float(libm::fmod(functions::number(&v[0]), functions::number(&v[1]))), FLOAT),
        };
        strict(eval, a, b, ty)
    }

    fn compared(&self, comparison: Comparison, left: &Expr, right: &Expr, e: &Expr, d: usize) -> Result<Typed, Problem> {
        let (a, b) = (self.plain(left, d)?, self.plain(right, d)?);
        let sign = match comparison {
            Comparison::Eq => "=",
            Comparison::Ne => "<>",
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
        };
        match e {
            Expr::Between { .. } => self.comparable("BETWEEN", a.ty, b.ty, left, right)?,
            _ => self.comparable(sign, a.ty, b.ty, left, right)?,
        }
        Ok(Typed::new(Node::Compare(comparison, Box::new([a.node, b.node])), BOOL))
    }

    fn comparable(&self, sign: &str, a: Ty, b: Ty, left: &Expr, right: &Expr) -> Result<(), Problem> {
        let nested = [a, b].into_iter().find_map(taking_out);
        if nested.is_none() && (a == Ty::Null || b == Ty::Null || a == b || (a.is_number() && b.is_number())) {
            return Ok(());
        }
        let mut problem = self.problem("type_mismatch", format!("{sign} compares {} with {}", a.name(), b.name()), left);
        if let (Some(l), Some(r)) = (self.range(left.span()), self.range(right.span())) {
            problem = problem.at(l.start.min(r.start)..l.end.max(r.end));
        }
        let is_literal = |x: &Expr| matches!(x, Expr::Value(_));
        Err(match (a, b) {
            (TIME, TEXT) | (TEXT, TIME) => problem.hint("write timestamp '2026-01-31 10:00:00'"),
            (TEXT, other) if other.is_number() && is_literal(right) => problem.hint(format!("quote the value: '{right}'")),
            (TEXT, other) if other.is_number() => problem.hint(format!("cast one side: {left}::float64")),
            (other, TEXT) if other.is_number() && is_literal(right) => problem.hint("write the number without quotes"),
            (other, TEXT) if other.is_number() => problem.hint(format!("cast one side: {right}::float64")),
            (BOOL, INT) | (INT, BOOL) => problem.hint("write true or false"),
            (TIME, other) | (other, TIME) if other.is_number() => problem.hint("epoch(t) gives a timestamp in seconds"),
            _ => hinted(problem, nested),
        })
    }

    /// Branches of one type: null fits all, int64 beside float64 becomes float64.
    fn unified(&self, who: &str, parts: Vec<(&Expr, Typed)>) -> Result<(Vec<Node>, Ty), Problem> {
        let mut ty = Ty::Null;
        for (e, typed) in &parts {
            ty = match (ty, typed.ty) {
                (Ty::Null, t) | (t, Ty::Null) => t,
                (a, b) if a == b => a,
                (a, b) if a.is_number() && b.is_number() => FLOAT,
                (a, b) => {
                    return Err(self.problem(
                        "type_mismatch",
                        format!("{who} gives {} in one place and {} in another ({})", a.name(), b.name(), self.quote(e)),
                        e,
                    ));
                }
            };
        }
        let widen = |t: Typed| match (t.ty, ty) {
            (INT, FLOAT) => Node::Strict(to_float, Box::new([t.node])).folded(),
            _ => t.node,
        };
        Ok((parts.into_iter().map(|(_, t)| widen(t)).collect(), ty))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one LIKE")]
    fn like(
        &self,
        a: &Expr,
        pattern: &Expr,
        escape: &Option<ast::ValueWithSpan>,
        negated: bool,
        ignore_case: bool,
        d: usize,
    ) -> Result<Typed, Problem> {
        let value = self.plain(a, d)?;
        if !matches!(value.ty, Ty::Null | TEXT) {
            return Err(self.needs("LIKE", "a string", a, value.ty));
        }
        let pattern = match self.plain(pattern, d)?.node {
            Node::Const(Value::Text(pattern)) => pattern,
            _ => return Err(self.problem("not_supported", "the pattern of LIKE must be written out", pattern)),
        };
        let escape = escape.as_ref().and_then(|v| v.value.clone().into_string()).and_then(|s| s.chars().next()).unwrap_or('\\');
        let found = Typed::new(Node::Like(Box::new(value.node), Like::new(&pattern, escape, ignore_case)), BOOL);
        Ok(if negated { not(found) } else { found })
    }

    fn cast(&self, value: Typed, to: &str, e: &Expr) -> Result<Typed, Problem> {
        let target = match to.to_lowercase().as_str() {
            "bool" | "boolean" => DataType::Bool,
            "int64" | "int" | "integer" | "bigint" => DataType::Int64,
            "float64" | "double" | "double precision" | "float" | "float8" => DataType::Float64,
            "string" | "text" | "varchar" => DataType::String,
            "timestamp" | "datetime" => DataType::Timestamp,
            other if other.starts_with("list") || other.starts_with("map") || other.starts_with("array") => {
                let problem = self.problem("type_mismatch", format!("a cast to {other}; lists and maps come from aggregates alone"), e);
                return Err(problem.hint(format!("valid here: {}", kilter_core::list(DataType::COLUMNS.map(DataType::name)))));
            }
            other => return Err(Problem::unknown("unknown_type", "type", other, DataType::COLUMNS.map(DataType::name))),
        };
        let ty = Ty::Of(target);
        let eval: Eval = match (value.ty, target) {
            (Ty::Null, _) => return Ok(Typed { node: value.node, ty }),
            (from, _) if from == ty => return Ok(value),
            (INT, DataType::Float64) => to_float,
            (BOOL, DataType::Float64) => |v| v[0].as_f64().map_or(Value::Null, Value::Float),
            (TEXT, DataType::Float64) => |v| functions::text(&v[0]).trim().parse().map_or(Value::Null, functions::float),
            (FLOAT, DataType::Int64) => |v| match libm::trunc(functions::number(&v[0])) {
                x if (-TWO_TO_63..TWO_TO_63).contains(&x) => Value::Int(x as i64),
                _ => Value::Null,
            },
            (BOOL, DataType::Int64) => |v| Value::Int(i64::from(*v[0] == Value::Bool(true))),
            (TEXT, DataType::Int64) => |v| functions::text(&v[0]).trim().parse().map_or(Value::Null, Value::Int),
            (INT | FLOAT, DataType::Bool) => |v| Value::Bool(functions::number(&v[0]) != 0.0),
            (TEXT, DataType::Bool) => |v| match functions::text(&v[0]).trim().to_lowercase().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
            (INT | FLOAT | BOOL | TIME, DataType::String) => |v| Value::Text(CompactString::from(v[0].to_string())),
            (TEXT, DataType::Timestamp) => |v| EventTime::parse(functions::text(&v[0])).map_or(Value::Null, Value::Time),
            (INT, DataType::Timestamp) => |v| match *v[0] {
                Value::Int(i) => Value::Time(EventTime::from_number(i)),
                _ => Value::Null,
            },
            (from, _) => {
                let problem = self.problem("type_mismatch", format!("{} cannot be cast to {target}", from.name()), e);
                return Err(match from {
                    TIME => problem.hint("epoch(t) gives a timestamp in seconds"),
                    from => hinted(problem, taking_out(from)),
                });
            }
        };
        Ok(Typed::new(Node::Strict(eval, Box::new([value.node])), ty))
    }

    fn interval(&self, interval: &ast::Interval, e: &Expr) -> Result<Typed, Problem> {
        let hint = "write it as interval '7 days', interval '90 minutes' or interval '1d12h'";
        let amount = match &*interval.value {
            Expr::Value(v) => match &v.value {
                ast::Value::Number(digits, _) => digits.clone(),
                other => other.clone().into_string().unwrap_or_default(),
            },
            _ => String::new(),
        };
        let unit = interval.leading_field.as_ref().map(|f| f.to_string()).unwrap_or_default();
        let text = format!("{amount}{unit}").to_lowercase();
        match parse_interval(&text) {
            Ok(micros) => Ok(Typed { node: Node::Const(Value::Int(micros)), ty: Ty::Interval }),
            Err(unit) if ["month", "months", "year", "years"].contains(&unit.as_str()) => {
                Err(self.problem("bad_literal", format!("a {} has no fixed length", unit.trim_end_matches('s')), e).hint("count in days"))
            }
            Err(_) => Err(self.problem("bad_literal", format!("`{e}` is not a length of time"), e).hint(hint)),
        }
    }

    fn named(&self, name: &str, args: &[&Expr], e: &Expr, d: usize) -> Result<Typed, Problem> {
        match functions::find(name) {
            Some(f) => self.call(f, args, e, d),
            None => self.refuse(&format!("`{name}`"), e),
        }
    }

    fn function(&self, f: &ast::Function, e: &Expr, d: usize) -> Result<Typed, Problem> {
        let written = f.name.to_string();
        let name = written.to_lowercase();
        if f.over.is_some() {
            return self.refuse("a window function", e);
        }
        let list = match &f.args {
            // Words such as `user` are functions to SQL and columns to us.
            ast::FunctionArguments::None => return self.column(None, &written, e),
            ast::FunctionArguments::Subquery(_) => return self.refuse("a subquery", e),
            ast::FunctionArguments::List(list) => list,
        };
        let plain_call = f.filter.is_none()
            && f.within_group.is_empty()
            && f.null_treatment.is_none()
            && f.parameters == ast::FunctionArguments::None
            && list.duplicate_treatment.is_none()
            && list.clauses.is_empty();
        let args: Option<Vec<&Expr>> = list
            .args
            .iter()
            .map(|a| match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect();
        let known = functions::names().any(|n| n == name);
        if !known {
            let problem = match crate::aggregators::find(&name) {
                Some(_) => Problem::new("aggregate_inside", format!("`{written}` is an aggregate, not a function of one row"))
                    .hint("an aggregate stands at the head of a feature column, as in \"sum(amount) over 7d\""),
                None => Problem::unknown("unknown_function", "function", &written, functions::names()),
            };
            return Err(match self.range(f.name.span()) {
                Some(range) => problem.at(range),
                None => problem,
            });
        }
        let Some(args) = args.filter(|_| plain_call) else { return self.refuse(&self.quote(e), e) };
        let count = |ok: bool, needs: &str| match ok {
            true => Ok(()),
            false => Err(self.problem("argument_count", format!("{name} takes {needs}, not {}", args.len()), e)),
        };
        let parts = |d| args.iter().map(|a| Ok((*a, self.plain(a, d)?))).collect::<Result<Vec<_>, Problem>>();
        match name.as_str() {
            "coalesce" => {
                count(!args.is_empty(), "at least one argument")?;
                let (nodes, ty) = self.unified("coalesce", parts(d)?)?;
                Ok(Typed::new(Node::Coalesce(nodes.into()), ty))
            }
            "least" | "greatest" => {
                count(!args.is_empty(), "at least one argument")?;
                let (nodes, ty) = self.unified(&name, parts(d)?)?;
                if let Some(hint) = taking_out(ty) {
                    return Err(self.problem("type_mismatch", format!("{name} compares values, not a {}", ty.name()), e).hint(hint));
                }
                let wanted = if name == "least" { Ordering::Less } else { Ordering::Greater };
                Ok(Typed::new(Node::Extreme(wanted, nodes.into()), ty))
            }
            "nullif" => {
                count(args.len() == 2, "2 arguments")?;
                let (a, b) = (self.plain(args[0], d)?, self.plain(args[1], d)?);
                self.comparable("nullif", a.ty, b.ty, args[0], args[1])?;
                Ok(Typed::new(Node::NullIf(Box::new([a.node, b.node])), a.ty))
            }
            "if" => {
                count(args.len() == 3, "3 arguments: if(condition, then, else)")?;
                let condition = self.boolean(args[0], d)?.node;
                let branches = vec![(args[1], self.plain(args[1], d)?), (args[2], self.plain(args[2], d)?)];
                let (mut nodes, ty) = self.unified("if", branches)?;
                let otherwise = nodes.pop().unwrap_or(Node::Const(Value::Null));
                let then = nodes.pop().unwrap_or(Node::Const(Value::Null));
                Ok(Typed::new(Node::Case(Box::new([(condition, then)]), Box::new(otherwise)), ty))
            }
            _ => self.named(&name, &args, e, d),
        }
    }

    fn call(&self, f: &'static functions::Function, args: &[&Expr], e: &Expr, d: usize) -> Result<Typed, Problem> {
        let least = f.params.len() - f.optional;
        if args.len() < least || args.len() > f.params.len() {
            let takes = match (least, f.params.len()) {
                (a, b) if a == b => format!("{a} argument{}", if a == 1 { "" } else { "s" }),
                (a, b) => format!("{a} to {b} arguments"),
            };
            return Err(self.problem("argument_count", format!("{} takes {takes}, not {}", f.name, args.len()), e));
        }
        let mut nodes = Vec::new();
        let mut first = Ty::Null;
        for (i, (arg, param)) in args.iter().zip(f.params).enumerate() {
            let typed = self.plain(arg, d)?;
            let whole = match first {
                Ty::Of(t) => Some(t),
                _ => None,
            };
            match typed.ty {
                Ty::Of(t) if !param.accepts(t, whole) => {
                    let problem = self.needs(f.name, param.needs(whole), arg, typed.ty);
                    return Err(match (param, t) {
                        (Param::Number, DataType::String) => problem.hint("cast it: x::float64"),
                        (Param::Map, DataType::NumberList | DataType::TextList) => problem.hint("element(list, n) takes a value out of it"),
                        (Param::List, DataType::NumberMap) => problem.hint("get(map, 'key') takes a value out of it"),
                        (Param::Text, t) if !t.is_nested() => problem.hint("cast it: x::string"),
                        (Param::Number | Param::Int | Param::Text | Param::Time, _) => hinted(problem, taking_out(typed.ty)),
                        _ => problem,
                    });
                }
                _ => {}
            }
            if i == 0 {
                first = typed.ty;
            }
            nodes.push(typed.node);
        }
        if f.name == "date_trunc"
            && let Some(Node::Const(Value::Text(unit))) = nodes.first()
            && !functions::units().any(|u| u == unit.as_str())
        {
            let problem = Problem::unknown("unknown_field", "unit", unit, functions::units());
            return Err(match self.range(args[0].span()) {
                Some(range) => problem.at(range),
                None => problem,
            });
        }
        let ty = match f.returns {
            // Rounding to digits gives a float of a float and an int of an int: the first argument decides.
            Returns::Same => first,
            Returns::Element => match first {
                Ty::Of(DataType::NumberList) => FLOAT,
                Ty::Of(DataType::TextList) => TEXT,
                _ => Ty::Null,
            },
            Returns::Is(t) => Ty::Of(t),
        };
        Ok(Typed::new(Node::Strict(f.eval, nodes.into()), ty))
    }
}

/// How to get at a plain value, where a list or map was given instead.
fn taking_out(ty: Ty) -> Option<&'static str> {
    match ty {
        Ty::Of(DataType::NumberList | DataType::TextList) => Some("element(list, n) takes a value out of it"),
        Ty::Of(DataType::NumberMap) => Some("get(map, 'key') takes a value out of it"),
        _ => None,
    }
}

fn hinted(problem: Problem, hint: Option<&str>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn too_deep() -> Problem {
    Problem::new("expression_too_deep", format!("the expression is nested more than {MAX_DEPTH} deep"))
        .hint("long chains of OR are shorter as IN (...)")
}

fn not(a: Typed) -> Typed {
    Typed::new(Node::Not(Box::new(a.node)), BOOL)
}

/// Sums of "number unit", in microseconds; the error is the unit that is not known.
fn parse_interval(text: &str) -> Result<i64, String> {
    let mut rest = text.trim();
    let mut total = 0i64;
    if rest.is_empty() {
        return Err(String::new());
    }
    let sign = if let Some(positive) = rest.strip_prefix('-') {
        rest = positive.trim_start();
        -1
    } else {
        1
    };
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let n: i64 = rest[..digits].parse().map_err(|_| String::new())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = &rest[..letters];
        let short = match unit {
            "microsecond" | "microseconds" => "us",
            "millisecond" | "milliseconds" => "ms",
            "sec" | "secs" | "second" | "seconds" => "s",
            "mins" | "minute" | "minutes" => "min",
            "hour" | "hours" => "h",
            "day" | "days" => "d",
            "week" | "weeks" => "w",
            other => other,
        };
        let span = Span::parse(&format!("{n}{short}")).ok_or_else(|| unit.to_string())?;
        total = total.checked_add(span.0).ok_or_else(String::new)?;
        rest = rest[letters..].trim_start_matches([' ', ',']);
    }
    Ok(sign * total)
}

type Args<'a, 'b> = &'a [std::borrow::Cow<'b, Value>];

fn int(v: Args<'_, '_>, op: fn(i64, i64) -> Option<i64>) -> Value {
    match (&*v[0], &*v[1]) {
        (Value::Int(a), Value::Int(b)) => op(*a, *b).map_or(Value::Null, Value::Int),
        _ => Value::Null,
    }
}

fn divide(v: Args<'_, '_>) -> Value {
    functions::float(functions::number(&v[0]) / functions::number(&v[1]))
}

fn negate(v: Args<'_, '_>) -> Value {
    match *v[0] {
        Value::Int(i) => i.checked_neg().map_or(Value::Null, Value::Int),
        _ => functions::float(-functions::number(&v[0])),
    }
}

fn to_float(v: Args<'_, '_>) -> Value {
    functions::float(functions::number(&v[0]))
}

fn concat(v: Args<'_, '_>) -> Value {
    let (a, b) = (functions::text(&v[0]), functions::text(&v[1]));
    let mut out = CompactString::with_capacity(a.len() + b.len());
    out.push_str(a);
    out.push_str(b);
    Value::Text(out)
}

fn seconds_between(v: Args<'_, '_>) -> Value {
    Value::Float((i128::from(functions::time(&v[0]).0) - i128::from(functions::time(&v[1]).0)) as f64 / 1e6)
}

fn shifted(v: Args<'_, '_>, op: fn(i64, i64) -> Option<i64>) -> Value {
    match (&*v[0], &*v[1]) {
        (Value::Time(t), Value::Int(by)) => op(t.0, *by).map_or(Value::Null, |t| Value::Time(EventTime(t))),
        _ => Value::Null,
    }
}

fn later(v: Args<'_, '_>) -> Value {
    shifted(v, i64::checked_add)
}

fn earlier(v: Args<'_, '_>) -> Value {
    shifted(v, i64::checked_sub)
}
