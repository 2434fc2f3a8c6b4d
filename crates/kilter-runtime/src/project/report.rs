//! What is wrong with the definitions, all of it at once, each with its line and a hint.

use std::fmt;

use serde::Serialize;

/// Whether a project may run with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One complaint about one place of a definitions file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable short code, such as `unknown_column`.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    pub file: String,
    /// From 1; 0 when the complaint is about the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters to underline.
    pub length: usize,
    /// The line, as it stands in the file.
    pub excerpt: String,
}

/// Everything found in one reading; at least one problem, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    pub problems: Vec<Diagnostic>,
}

impl Report {
    /// Complaints that keep the project from running.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|d| d.severity == Severity::Error).count()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}]: {}", self.code, self.message)?;
        if self.line == 0 {
            writeln!(f, "  --> {}", self.file)?;
            if let Some(hint) = &self.hint {
                writeln!(f, "   = hint: {hint}")?;
            }
            return Ok(());
        }
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        // Tabs would shift the carets under a proportional tab stop, so they are shown as one blank.
        writeln!(f, "{number} | {}", self.excerpt.replace('\t', " ").trim_end())?;
        writeln!(f, "{margin} | {}{}", " ".repeat(self.column.saturating_sub(1)), "^".repeat(self.length.max(1)))?;
        if let Some(hint) = &self.hint {
            writeln!(f, "{margin} = hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let errors = self.errors();
        let warnings = self.problems.len() - errors;
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let file = self.problems.first().map_or("the definitions", |d| d.file.as_str());
        match (errors, warnings) {
            (0, 0) => write!(f, "no problem found"),
            (0, w) => write!(f, "{} in {file}", count(w, "warning")),
            (e, 0) => write!(f, "{} in {file}", count(e, "error")),
            (e, w) => write!(f, "{}, {} in {file}", count(e, "error"), count(w, "warning")),
        }
    }
}

impl std::error::Error for Report {}
