//! Expressions in SQL syntax, typed when compiled, evaluated over slots.
//!
//! The rules (types, nulls, every function) stand in docs/reference/expressions.md, whose examples are tests of this module.

mod calendar;
mod compile;
mod dialect;
pub(crate) mod functions;
mod lists;
mod node;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kilter_core::{DataType, Problem, Value};
use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

use node::Node;

/// The longest text of one expression, in bytes.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;

/// The names an expression may use, each with its type and slot.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    names: Vec<Name>,
}

#[derive(Clone, Debug)]
struct Name {
    qualifier: Option<String>,
    name: String,
    data_type: DataType,
}

impl Name {
    fn full(&self) -> String {
        match &self.qualifier {
            Some(q) => format!("{q}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The names that stand before a dot in an expression or a feature's line: `merchant` of `amount / merchant.mean_30d`. Of a text that is no
/// SQL none, for whoever compiles it says so.
pub fn qualifiers(text: &str) -> Vec<String> {
    let tokens = words(text);
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        // Of `a.b.c` only the first.
        let begins = at == 0 || tokens[at - 1] != Token::Period;
        if let [Token::Word(word), Token::Period] = pair
            && begins
        {
            found.push(word.value.clone());
        }
    }
    found
}

/// The names in an expression or a feature's line, each with what stands before its dot; words of the language and names of functions among
/// them. Of a text that is no SQL none, for whoever compiles it says so.
pub fn names(text: &str) -> Vec<(Option<String>, String)> {
    let tokens = words(text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let behind = at.checked_sub(1).map(|i| &tokens[i]) == Some(&Token::Period);
        let qualifier = match at.checked_sub(2).map(|i| &tokens[i]) {
            Some(Token::Word(q)) if behind => Some(q.value.clone()),
            _ => None,
        };
        if tokens.get(at + 1) != Some(&Token::Period) {
            found.push((qualifier, word.value.clone()));
        }
    }
    found
}

fn words(text: &str) -> Vec<Token> {
    let tokens = match text.len() <= MAX_TEXT_BYTES {
        true => Tokenizer::new(&GenericDialect {}, text).tokenize().unwrap_or_default(),
        false => Vec::new(),
    };
    tokens.into_iter().filter(|t| !matches!(t, Token::Whitespace(_))).collect()
}

impl Scope {
    pub fn new() -> Scope {
        Scope::default()
    }

    /// Adds a name and returns its slot: slots count from 0 in the order of adding.
    pub fn add(&mut self, qualifier: Option<&str>, name: &str, data_type: DataType) -> usize {
        self.names.push(Name { qualifier: qualifier.map(str::to_string), name: name.to_string(), data_type });
        self.names.len() - 1
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The slot of `qualifier.name`, or of `name` alone when only one thing in scope bears it.
    pub fn resolve(&self, qualifier: Option<&str>, name: &str) -> Result<(usize, DataType), Problem> {
        let matches: Vec<usize> = (0..self.names.len())
            .filter(|&i| self.names[i].name == name && (qualifier.is_none() || self.names[i].qualifier.as_deref() == qualifier))
            .collect();
        // A name without a qualifier in the scope wins over qualified ones: it can be said in no other way.
        let plain = matches.iter().copied().find(|&i| qualifier.is_none() && self.names[i].qualifier.is_none());
        match (plain, matches.as_slice()) {
            (Some(i), _) | (None, &[i]) => Ok((i, self.names[i].data_type)),
            (None, []) => Err(self.unknown(qualifier, name)),
            (None, several) => {
                let choices: Vec<String> = several.iter().map(|&i| self.names[i].full()).collect();
                Err(Problem::new("ambiguous_column", format!("`{name}` could be any of {} columns", several.len()))
                    .hint(format!("say which: {}", kilter_core::list(choices.iter().map(String::as_str)))))
            }
        }
    }

    fn unknown(&self, qualifier: Option<&str>, name: &str) -> Problem {
        let full: Vec<String> = self.names.iter().map(Name::full).collect();
        let Some(qualifier) = qualifier else {
            let short = self.names.iter().map(|n| n.name.as_str());
            let known = kilter_core::nearest(name, short).map(str::to_string);
            let choices = full.iter().zip(&self.names).filter(|(_, n)| Some(&n.name) == known.as_ref()).map(|(f, _)| f.as_str());
            return match known.is_some() {
                true => Problem::new("unknown_column", format!("unknown column `{name}`"))
                    .hint(format!("did you mean `{}`?", choices.collect::<Vec<_>>().join("` or `"))),
                false => Problem::unknown("unknown_column", "column", name, full.iter().map(String::as_str)),
            };
        };
        let wanted = format!("{qualifier}.{name}");
        let inside: Vec<&str> = self.names.iter().filter(|n| n.qualifier.as_deref() == Some(qualifier)).map(|n| n.name.as_str()).collect();
        if !inside.is_empty() && kilter_core::nearest(&wanted, full.iter().map(String::as_str)).is_none() {
            return Problem::new("unknown_column", format!("unknown column `{wanted}`"))
                .hint(format!("`{qualifier}` has: {}", kilter_core::list(inside)));
        }
        Problem::unknown("unknown_column", "column", &wanted, full.iter().map(String::as_str))
    }
}

/// A compiled expression. Cheap to clone.
#[derive(Clone)]
pub struct Expr {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    data_type: Option<DataType>,
    slots: Vec<usize>,
    text: String,
}

/// Compiles `text` against the names in `scope`.
pub fn compile(text: &str, scope: &Scope) -> Result<Expr, Problem> {
    let (node, data_type) = compile::compile(text, scope)?;
    let mut slots = Vec::new();
    node.slots(&mut slots);
    slots.sort_unstable();
    slots.dedup();
    Ok(Expr { inner: Arc::new(Inner { node, data_type, slots, text: text.trim().to_string() }) })
}

impl Expr {
    /// The value over these slots. A slot that is not there is null.
    pub fn eval(&self, slots: &[Value]) -> Value {
        self.inner.node.eval(slots).into_owned()
    }

    /// As [`Expr::eval`], borrowing where the expression is a column or a constant.
    pub fn eval_ref<'a>(&'a self, slots: &'a [Value]) -> std::borrow::Cow<'a, Value> {
        self.inner.node.eval(slots)
    }

    /// Whether the value is true: a filter keeps what is true and drops false and null alike.
    pub fn holds(&self, slots: &[Value]) -> bool {
        self.inner.node.truth(slots) == Some(true)
    }

    /// The type of every value but null; none: it is always null.
    pub fn data_type(&self) -> Option<DataType> {
        self.inner.data_type
    }

    /// The slots it reads, ascending.
    pub fn slots(&self) -> &[usize] {
        &self.inner.slots
    }

    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The slot, when the expression is one column and nothing else.
    pub fn as_slot(&self) -> Option<usize> {
        match self.inner.node {
            Node::Slot(slot) => Some(slot),
            _ => None,
        }
    }

    /// The value, when the expression is a constant.
    pub fn as_constant(&self) -> Option<&Value> {
        match &self.inner.node {
            Node::Const(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expr").field("text", &self.inner.text).field("data_type", &self.inner.data_type).finish()
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

/// Moves the bytes a problem points at, when its text was cut out of a longer one.
pub(crate) fn shifted(mut problem: Problem, by: usize) -> Problem {
    problem.at = problem.at.map(|Range { start, end }| start + by..end + by);
    problem
}

/// The byte that the parser calls (line, column), both from 1 and counted in characters.
pub(crate) fn byte_at(text: &str, line: u64, column: u64) -> Option<usize> {
    if line == 0 || column == 0 {
        return None;
    }
    let start = match line {
        1 => 0,
        _ => text.match_indices('\n').nth(line as usize - 2)?.0 + 1,
    };
    let rest = &text[start..];
    Some(start + rest.char_indices().nth(column as usize - 1).map_or(rest.len(), |(i, _)| i))
}
