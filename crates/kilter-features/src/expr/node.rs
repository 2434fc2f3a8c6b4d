//! The compiled form: a tree whose leaves are constants and slots. Types were settled when it was built.

use std::borrow::Cow;
use std::cmp::Ordering;

use kilter_core::Value;
use smallvec::SmallVec;

/// Computes one value from values that are all present.
pub(super) type Eval = fn(&[Cow<'_, Value>]) -> Value;

#[derive(Clone)]
pub(super) enum Node {
    Const(Value),
    Slot(usize),
    /// A function that is null as soon as one argument is.
    Strict(Eval, Box<[Node]>),
    Compare(Comparison, Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    IsNull(Box<Node>),
    /// `is true`, `is false`: never null.
    Is(bool, Box<Node>),
    In(Box<Node>, Box<[Node]>),
    Like(Box<Node>, Like),
    /// Conditions with their results, then the result when none holds.
    Case(Box<[(Node, Node)]>, Box<Node>),
    Coalesce(Box<[Node]>),
    /// Null where both are equal, else the first.
    NullIf(Box<[Node; 2]>),
    /// The smallest (`Less`) or largest (`Greater`) of the arguments that are present.
    Extreme(Ordering, Box<[Node]>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Eq => order.is_eq(),
            Comparison::Ne => order.is_ne(),
            Comparison::Lt => order.is_lt(),
            Comparison::Le => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::Ge => order.is_ge(),
        }
    }
}

static NULL: Value = Value::Null;

impl Node {
    pub(super) fn eval<'a>(&'a self, slots: &'a [Value]) -> Cow<'a, Value> {
        match self {
            Node::Const(value) => Cow::Borrowed(value),
            Node::Slot(slot) => Cow::Borrowed(slots.get(*slot).unwrap_or(&NULL)),
            Node::Strict(eval, args) => {
                let mut values: SmallVec<[Cow<'_, Value>; 3]> = SmallVec::new();
                for arg in args {
                    let value = arg.eval(slots);
                    if value.is_null() {
                        return Cow::Borrowed(&NULL);
                    }
                    values.push(value);
                }
                Cow::Owned(eval(&values))
            }
            Node::Case(branches, otherwise) => {
                for (condition, result) in branches {
                    if condition.truth(slots) == Some(true) {
                        return result.eval(slots);
                    }
                }
                otherwise.eval(slots)
            }
            Node::Coalesce(args) => args.iter().map(|a| a.eval(slots)).find(|v| !v.is_null()).unwrap_or(Cow::Borrowed(&NULL)),
            Node::NullIf(pair) => {
                let first = pair[0].eval(slots);
                match compare(&first, &pair[1].eval(slots)) {
                    Some(Ordering::Equal) => Cow::Borrowed(&NULL),
                    _ => first,
                }
            }
            Node::Extreme(wanted, args) => {
                let mut best: Option<Cow<'_, Value>> = None;
                for value in args.iter().map(|a| a.eval(slots)).filter(|v| !v.is_null()) {
                    match &best {
                        Some(b) if compare(&value, b) != Some(*wanted) => {}
                        _ => best = Some(value),
                    }
                }
                best.unwrap_or(Cow::Borrowed(&NULL))
            }
            _ => Cow::Owned(self.truth(slots).map_or(Value::Null, Value::Bool)),
        }
    }

    /// The value as three-valued logic sees it.
    pub(super) fn truth(&self, slots: &[Value]) -> Option<bool> {
        match self {
            Node::Compare(comparison, pair) => {
                let (a, b) = (pair[0].eval(slots), pair[1].eval(slots));
                compare(&a, &b).map(|order| comparison.holds(order))
            }
            Node::And(pair) => match pair[0].truth(slots) {
                Some(false) => Some(false),
                first => match pair[1].truth(slots) {
                    Some(false) => Some(false),
                    second => first.and(second),
                },
            },
            Node::Or(pair) => match pair[0].truth(slots) {
                Some(true) => Some(true),
                first => match pair[1].truth(slots) {
                    Some(true) => Some(true),
                    second => first.and(second),
                },
            },
            Node::Not(a) => a.truth(slots).map(|b| !b),
            Node::IsNull(a) => Some(a.eval(slots).is_null()),
            Node::Is(wanted, a) => Some(a.truth(slots) == Some(*wanted)),
            Node::In(a, list) => {
                let value = a.eval(slots);
                if value.is_null() {
                    return None;
                }
                let mut unknown = false;
                for item in list {
                    match compare(&value, &item.eval(slots)) {
                        Some(Ordering::Equal) => return Some(true),
                        Some(_) => {}
                        None => unknown = true,
                    }
                }
                (!unknown).then_some(false)
            }
            Node::Like(a, like) => match &*a.eval(slots) {
                Value::Text(s) => Some(like.matches(s)),
                _ => None,
            },
            _ => match &*self.eval(slots) {
                Value::Bool(b) => Some(*b),
                _ => None,
            },
        }
    }

    fn children(&self) -> Vec<&Node> {
        match self {
            Node::Const(_) | Node::Slot(_) => vec![],
            Node::Strict(_, args) | Node::Coalesce(args) | Node::Extreme(_, args) => args.iter().collect(),
            Node::Compare(_, pair) | Node::And(pair) | Node::Or(pair) | Node::NullIf(pair) => pair.iter().collect(),
            Node::Not(a) | Node::IsNull(a) | Node::Is(_, a) | Node::Like(a, _) => vec![a],
            Node::In(a, list) => std::iter::once(&**a).chain(list).collect(),
            Node::Case(branches, otherwise) => branches.iter().flat_map(|(c, r)| [c, r]).chain([&**otherwise]).collect(),
        }
    }

    pub(super) fn slots(&self, out: &mut Vec<usize>) {
        if let Node::Slot(slot) = self {
            out.push(*slot);
        }
        self.children().into_iter().for_each(|c| c.slots(out));
    }

    /// The same node, computed now if nothing in it depends on a slot.
    pub(super) fn folded(self) -> Node {
        match self.children().iter().all(|c| matches!(c, Node::Const(_))) && !matches!(self, Node::Slot(_)) {
            true => Node::Const(self.eval(&[]).into_owned()),
            false => self,
        }
    }
}

/// How two values of comparable types are ordered; none where one is null. Integers beside floats are compared as floats.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Text(a), Value::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// A LIKE pattern: `%` any run of characters, `_` any one, the escape character takes the next literally.
#[derive(Clone)]
pub(super) struct Like {
    tokens: Vec<Token>,
    ignore_case: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Run,
    One,
    Char(char),
}

impl Like {
    pub(super) fn new(pattern: &str, escape: char, ignore_case: bool) -> Like {
        let mut tokens = Vec::new();
        let lower = pattern.to_lowercase();
        let mut chars = if ignore_case { lower.chars() } else { pattern.chars() };
        while let Some(c) = chars.next() {
            tokens.push(match c {
                c if c == escape => Token::Char(chars.next().unwrap_or(escape)),
                '%' => Token::Run,
                '_' => Token::One,
                c => Token::Char(c),
            });
        }
        Like { tokens, ignore_case }
    }

    // Greedy with one point of return (the last `%`): at most pattern times text steps.
    fn matches(&self, text: &str) -> bool {
        let text: SmallVec<[char; 64]> = match self.ignore_case {
            true => text.to_lowercase().chars().collect(),
            false => text.chars().collect(),
        };
        let (mut t, mut p) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while t < text.len() {
            match self.tokens.get(p) {
                Some(Token::Run) => {
                    back = Some((p + 1, t));
                    p += 1;
                }
                Some(token) if *token == Token::One || *token == Token::Char(text[t]) => {
                    t += 1;
                    p += 1;
                }
                _ => match back {
                    Some((after, from)) => {
                        back = Some((after, from + 1));
                        (p, t) = (after, from + 1);
                    }
                    None => return false,
                },
            }
        }
        self.tokens[p..].iter().all(|token| *token == Token::Run)
    }
}
