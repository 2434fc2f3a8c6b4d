//! The text of a definitions file with the place of every key and value in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use kilter_core::Problem;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Diagnostic, Report, Severity};

/// Bytes of a key and of its value.
#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

/// Which part of the file a complaint is about; paths are dotted, list items by number: `model.risk.inputs.2`.
#[derive(Clone, Debug)]
pub(super) enum At<'p> {
    Key(&'p str),
    Value(&'p str),
    /// Bytes of the decoded text that the value holds.
    Inside(&'p str, Range<usize>),
    File,
}

/// Collects complaints while the definitions are read and resolved.
pub(super) struct Document<'t> {
    file: String,
    text: &'t str,
    places: BTreeMap<String, Place>,
    found: RefCell<Vec<(usize, Diagnostic)>>,
}

impl<'t> Document<'t> {
    /// The parsed file, or its syntax errors.
    pub(super) fn parse(text: &'t str, file: &str) -> Result<(Document<'t>, Spanned<DeTable<'t>>), Report> {
        let mut document = Document { file: file.to_owned(), text, places: BTreeMap::new(), found: RefCell::new(Vec::new()) };
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            document.note_table("", table.get_ref());
            return Ok((document, table));
        }
        // What follows the first slip is often a consequence of it; repeated names are slips of their own.
        let duplicate = |e: &toml::de::Error| e.message().contains("duplicate");
        let mut shown: Vec<&toml::de::Error> = errors.iter().filter(|e| duplicate(e)).collect();
        if shown.len() < errors.len() {
            shown = errors.iter().filter(|e| !duplicate(e)).take(1).collect();
        }
        // The keys of a table that is there twice are there twice as well, which says nothing new.
        let start = |e: &toml::de::Error| e.span().map_or(0, |span| span.start);
        let header = |at: usize| text[..at].rmatch_indices('\n').map(|(i, _)| i + 1).chain([0]).find(|i| text[*i..].starts_with('['));
        let repeated: Vec<usize> = shown.iter().filter_map(|e| header(start(e)).filter(|h| !text[*h..start(e)].contains('\n'))).collect();
        shown.retain(|e| header(start(e)).is_none_or(|h| !repeated.contains(&h) || !text[h..start(e)].contains('\n')));
        for error in shown {
            let problem = if duplicate(error) {
                Problem::new("duplicate", "the same name is defined twice").hint("keep one of the two, or rename it")
            } else {
                Problem::new("syntax", format!("this is not TOML: {}", error.message()))
                    .hint("texts stand in quotes, lists in [ ], tables in { }; one `key = value` a line")
            };
            document.push(Severity::Error, problem, error.span().unwrap_or(0..0));
        }
        Err(document.report())
    }

    fn note_table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            self.places.insert(path.clone(), Place { key: key.span(), value: value.span() });
            self.note_value(&path, value);
        }
    }

    fn note_value(&mut self, path: &str, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(path, table),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = join(path, &i.to_string());
                    self.places.insert(path.clone(), Place { key: item.span(), value: item.span() });
                    self.note_value(&path, item);
                }
            }
            _ => {}
        }
    }

    pub(super) fn error(&self, at: At<'_>, problem: Problem) {
        self.add(Severity::Error, at, problem);
    }

    pub(super) fn warning(&self, at: At<'_>, problem: Problem) {
        self.add(Severity::Warning, at, problem);
    }

    /// A complaint about an expression that stands in the value at `path`, `offset` bytes from the start of its text.
    pub(super) fn error_in_text(&self, path: &str, offset: usize, whole: usize, problem: Problem) {
        let at = problem.at.clone().unwrap_or(0..whole);
        self.error(At::Inside(path, offset + at.start..offset + at.end), problem);
    }

    fn add(&self, severity: Severity, at: At<'_>, problem: Problem) {
        let bytes = match at {
            At::File => None,
            At::Key(path) => self.place(path).map(|p| p.key.clone()),
            At::Value(path) => self.place(path).map(|p| p.value.clone()),
            At::Inside(path, inner) => self.place(path).map(|p| raw_range(self.text, p.value.clone(), inner)),
        };
        match bytes {
            Some(bytes) => self.push(severity, problem, bytes),
            None => {
                let diagnostic = self.diagnostic(severity, problem, 0, 0, 0, "");
                self.found.borrow_mut().push((0, diagnostic));
            }
        }
    }

    /// The place itself, or of the nearest table around it: a key that was left out has none.
    fn place(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// Whether the file says anything at this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// The bytes of a value.
    pub(super) fn value_span(&self, path: &str) -> Option<Range<usize>> {
        self.places.get(path).map(|place| place.value.clone())
    }

    /// The first of these paths that the file has.
    pub(super) fn first_of(&self, paths: &[String]) -> String {
        paths.iter().find(|p| self.has(p)).or(paths.last()).cloned().unwrap_or_default()
    }

    fn push(&self, severity: Severity, problem: Problem, bytes: Range<usize>) {
        let start = bytes.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |i| start + i);
        let line = self.text[..start].matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let length = self.text[start..bytes.end.clamp(start, line_end)].chars().count().max(1);
        let excerpt = self.text[line_start..line_end].trim_end_matches('\r');
        let diagnostic = self.diagnostic(severity, problem, line, column, length, excerpt);
        let mut found = self.found.borrow_mut();
        // Two readers of the same place may stumble over the same thing.
        if !found.iter().any(|(_, d)| *d == diagnostic) {
            found.push((start, diagnostic));
        }
    }

    fn diagnostic(&self, severity: Severity, problem: Problem, line: usize, column: usize, length: usize, excerpt: &str) -> Diagnostic {
        Diagnostic {
            severity,
            code: problem.code,
            message: problem.message,
            hint: problem.hint,
            file: self.file.clone(),
            line,
            column,
            length,
            excerpt: excerpt.to_owned(),
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|(_, d)| d.severity == Severity::Error)
    }

    /// Everything found, in the order of the file.
    pub(super) fn report(self) -> Report {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(start, d)| (*start, d.column));
        Report { problems: found.into_iter().map(|(_, d)| d).collect() }
    }
}

/// A dotted path; the root is empty.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Where bytes of a decoded TOML string stand in the file: behind the opening quotes, with escapes counted as they are written.
fn raw_range(text: &str, value: Range<usize>, inner: Range<usize>) -> Range<usize> {
    let Some(raw) = text.get(value.clone()) else { return value };
    let quotes = ["\"\"\"", "'''", "\"", "'"];
    let Some(quote) = quotes.into_iter().find(|q| raw.starts_with(q) && raw.len() >= 2 * q.len()) else { return value };
    let escapes = quote.starts_with('"');
    let body_end = raw.len() - quote.len();
    let mut raw_at = quote.len();
    if quote.len() == 3 {
        let body = &raw[raw_at..body_end];
        raw_at += if body.starts_with("\r\n") { 2 } else { usize::from(body.starts_with('\n')) };
    }
    let mut decoded_at = 0;
    let (mut start, mut end) = (None, None);
    while raw_at < body_end && end.is_none() {
        let rest = &raw[raw_at..body_end];
        let (written, decoded) = if escapes { character(rest) } else { plain(rest) };
        // Some escapes, such as a line that goes on, stand for nothing.
        if decoded > 0 && start.is_none() && decoded_at >= inner.start {
            start = Some(raw_at);
        }
        if decoded_at >= inner.end {
            end = Some(raw_at);
        }
        raw_at += written;
        decoded_at += decoded;
    }
    let start = start.unwrap_or(body_end);
    let end = end.unwrap_or(body_end).max(start);
    // An error at the end of the text is shown on the closing quote rather than nowhere.
    value.start + start..value.start + if end == start { start + 1 } else { end }
}

fn plain(rest: &str) -> (usize, usize) {
    let n = rest.chars().next().map_or(1, char::len_utf8);
    (n, n)
}

/// Bytes as written and as meant of the next character of a basic string.
fn character(rest: &str) -> (usize, usize) {
    if !rest.starts_with('\\') {
        return plain(rest);
    }
    let digits = match rest.as_bytes().get(1) {
        Some(b'u') => 4,
        Some(b'U') => 8,
        Some(b'x') => 2,
        Some(c) if c.is_ascii_whitespace() => {
            let blank = rest[1..].len() - rest[1..].trim_start().len();
            return (1 + blank, 0);
        }
        _ => return (2.min(rest.len()), 1),
    };
    let code = rest.get(2..2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
    ((2 + digits).min(rest.len()), code.map_or(1, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, inner: Range<usize>) -> &str {
        let start = text.find(['"', '\'']).unwrap_or(0);
        &text[raw_range(text, start..text.trim_end().len(), inner)]
    }

    #[test]
    fn bytes_inside_a_string_are_found_in_the_file() {
        assert_eq!(shown(r#"a = "sum(x)""#, 4..5), "x");
        assert_eq!(shown("a = '''\nsum(x)'''", 4..5), "x");
        assert_eq!(shown(r#"a = "\"\" + x""#, 5..6), "x");
        assert_eq!(shown(r#"a = "\u00e9 x""#, 3..4), "x");
        assert_eq!(shown("a = \"\"\"b \\\n   x\"\"\"", 2..3), "x");
        assert_eq!(shown(r#"a = "sum(""#, 4..4), "\"");
    }
}
