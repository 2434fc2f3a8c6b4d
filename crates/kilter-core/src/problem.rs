//! What is wrong, where, and what to do about it: the one shape of every complaint about definitions and expressions.

use std::fmt;
use std::ops::Range;

/// A mistake in a piece of text (an expression, a definition), with the bytes it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable short code, such as `unknown_column`.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Bytes of the text at fault, counted from its start.
    pub at: Option<Range<usize>>,
}

impl Problem {
    pub fn new(code: &'static str, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), hint: None, at: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    pub fn at(mut self, at: Range<usize>) -> Problem {
        self.at = Some(at);
        self
    }

    /// "no column `x`" with the nearest valid name, or all of them when there are few.
    pub fn unknown<'a>(code: &'static str, what: &str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Problem {
        let valid: Vec<&str> = valid.into_iter().collect();
        let problem = Problem::new(code, format!("unknown {what} `{name}`"));
        match crate::nearest(name, valid.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if valid.is_empty() => problem.hint(format!("no {what} is declared")),
            None => problem.hint(format!("valid here: {}", crate::list(valid))),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
