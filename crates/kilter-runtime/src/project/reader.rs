//! Reads tables of TOML key by key, and complains about every key that is missing, of the wrong kind or unknown.

use std::collections::BTreeMap;
use std::fmt::Display;

use kilter_core::{Problem, Span, list, nearest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::definitions::{Named, Scalar, Size, Word};
use super::document::{At, Document, join};

/// One table under reading.
pub(super) struct Reader<'d> {
    pub document: &'d Document<'d>,
    /// Dotted path of the table; empty for the file itself.
    pub path: String,
    /// What the table is to people: "source \"transactions\"".
    what: String,
    entries: Vec<Entry<'d>>,
    asked: Vec<&'static str>,
    /// Required keys that are not there.
    missing: Vec<(&'static str, Problem)>,
}

struct Entry<'d> {
    key: &'d str,
    value: &'d DeValue<'d>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: &'d Document<'d>, path: &str, what: impl Into<String>, table: &'d DeTable<'d>) -> Reader<'d> {
        let mut spanned: Vec<(&Spanned<_>, &Spanned<DeValue<'d>>)> = table.iter().collect();
        // The parser sorts keys by name; people mean the order they wrote.
        spanned.sort_by_key(|(key, _)| key.span().start);
        let entries = spanned.into_iter().map(|(k, v)| Entry { key: k.get_ref(), value: v.get_ref() }).collect();
        Reader { document, path: path.to_owned(), what: what.into(), entries, asked: Vec::new(), missing: Vec::new() }
    }

    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports at the value of `key`.
    pub(super) fn wrong(&self, key: &str, problem: Problem) {
        self.document.error(At::Value(&self.at(key)), problem);
    }

    fn mismatch(&self, key: &str, expected: &str, hint: &str) {
        let found = self.raw(key).map_or("nothing", kind);
        let problem = Problem::new("wrong_type", format!("`{key}` of {} must be {expected}, not {found}", self.what));
        self.wrong(key, problem.hint(hint));
    }

    fn raw(&self, key: &str) -> Option<&'d DeValue<'d>> {
        self.entries.iter().find(|e| e.key == key).map(|e| e.value)
    }

    fn ask(&mut self, key: &'static str) -> Option<&'d DeValue<'d>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.raw(key)
    }

    /// Complains when `key` is not there at all; what it holds is for another call.
    pub(super) fn require(&mut self, key: &'static str, hint: &str) {
        if self.ask(key).is_none() {
            let problem = Problem::new("missing", format!("{} needs `{key}`", self.what)).hint(hint);
            self.missing.push((key, problem));
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.ask(key)? {
            DeValue::String(s) if !s.trim().is_empty() => Some(s.to_string()),
            DeValue::String(_) => {
                let problem = Problem::new("empty", format!("`{key}` of {} is empty", self.what));
                self.wrong(key, problem.hint("give it a value, or leave the line out"));
                None
            }
            _ => {
                self.mismatch(key, "a text", &format!("write `{key} = \"...\"`"));
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.ask(key)? {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                self.mismatch(key, "true or false", &format!("write `{key} = true`, without quotes"));
                None
            }
        }
    }

    /// A length of time; a day, after the complaint, when it is not one.
    pub(super) fn span(&mut self, key: &'static str) -> Option<Span> {
        let parsed = match self.ask(key)? {
            DeValue::String(s) => Span::parse(s),
            _ => None,
        };
        match parsed {
            Some(span) if span > Span::ZERO => Some(span),
            Some(span) if key == "lateness" || key == "dedupe" || key == "max_future" => Some(span),
            Some(_) => {
                let problem = Problem::new("out_of_range", format!("`{key}` of {} must be longer than zero", self.what));
                self.wrong(key, problem.hint(format!("such as `{key} = \"7d\"`")));
                Some(Span::DAY)
            }
            None => {
                let shown = self.raw(key).map(show).unwrap_or_default();
                let problem = Problem::new("bad_span", format!("`{key}` of {} is not a length of time: {shown}", self.what));
                self.wrong(key, problem.hint("a number with a unit in quotes: \"90s\", \"15m\", \"1h\", \"7d\", \"2w\", \"1d12h\""));
                Some(Span::DAY)
            }
        }
    }

    /// A length of time or "none"; the outer option: whether it is there and good.
    pub(super) fn span_or_none(&mut self, key: &'static str) -> Option<Option<Span>> {
        match self.ask(key)? {
            DeValue::String(s) if s == "none" => Some(None),
            _ => self.span(key).map(Some),
        }
    }

    pub(super) fn size(&mut self, key: &'static str) -> Option<Size> {
        let parsed = match self.ask(key)? {
            DeValue::String(s) => Size::parse(s),
            _ => None,
        };
        if parsed.is_none_or(|s| s.0 == 0) {
            let shown = self.raw(key).map(show).unwrap_or_default();
            let problem = Problem::new("bad_size", format!("`{key}` of {} is not a size: {shown}", self.what));
            self.wrong(key, problem.hint("a number with a unit in quotes: \"512KiB\", \"16MiB\", \"1GiB\""));
            return None;
        }
        parsed
    }

    /// An integer between the bounds, both included.
    pub(super) fn integer(&mut self, key: &'static str, low: i64, high: i64) -> Option<i64> {
        let DeValue::Integer(i) = self.ask(key)? else {
            self.mismatch(key, "a whole number", &format!("write `{key} = {}`, without quotes", low.max(1)));
            return None;
        };
        match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) if (low..=high).contains(&n) => Some(n),
            _ => {
                // The largest integer stands for "no upper bound".
                let high = if high == i64::MAX { f64::INFINITY } else { high as f64 };
                self.out_of_range(key, i, low as f64, high);
                None
            }
        }
    }

    /// A number between the bounds, both included.
    pub(super) fn number(&mut self, key: &'static str, low: f64, high: f64) -> Option<f64> {
        let number = match self.ask(key)? {
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|i| i as f64),
            DeValue::Float(x) => x.as_str().parse().ok(),
            _ => {
                self.mismatch(key, "a number", &format!("write `{key} = 0.5`, without quotes"));
                return None;
            }
        };
        match number {
            Some(x) if x.is_finite() && (low..=high).contains(&x) => Some(x),
            other => {
                self.out_of_range(key, other.unwrap_or(f64::NAN), low, high);
                None
            }
        }
    }

    fn out_of_range(&self, key: &str, found: impl Display, low: f64, high: f64) {
        let range = match (low.is_finite(), high.is_finite()) {
            (true, true) => format!("between {low} and {high}"),
            (true, false) => format!("at least {low}"),
            (false, true) => format!("at most {high}"),
            (false, false) => "a finite number".to_owned(),
        };
        let problem = Problem::new("out_of_range", format!("`{key}` of {} is {found}", self.what));
        self.wrong(key, problem.hint(format!("it must be {range}")));
    }

    /// One of a few words.
    pub(super) fn word<T: Word>(&mut self, key: &'static str) -> Option<T> {
        match self.ask(key)? {
            DeValue::String(s) => self.word_in(key, s),
            _ => {
                self.mismatch(key, "a word in quotes", &format!("one of: {}", list(T::WORDS.iter().map(|(w, _)| *w))));
                None
            }
        }
    }

    fn word_in<T: Word>(&self, key: &str, word: &str) -> Option<T> {
        let meaning = |word: &str| T::WORDS.iter().find(|(w, _)| *w == word).map(|(_, t)| *t);
        meaning(word).or_else(|| {
            let words = || T::WORDS.iter().map(|(w, _)| *w);
            self.wrong(key, Problem::unknown("unknown_word", T::WHAT, word, words()));
            nearest(word, words()).and_then(meaning)
        })
    }

    pub(super) fn words<T: Word>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let texts = self.texts(key)?;
        let found: Vec<Option<T>> = texts.iter().enumerate().map(|(i, t)| self.word_in(&format!("{key}.{i}"), t)).collect();
        found.into_iter().collect()
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let hint = format!("write `{key} = [\"...\", \"...\"]`");
        let DeValue::Array(items) = self.ask(key)? else {
            self.mismatch(key, "a list of texts", &hint);
            return None;
        };
        let mut texts = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match text_of(item.get_ref()) {
                Some(text) => texts.push(text),
                None => {
                    let problem = format!("`{key}` of {} must hold texts, this is {}", self.what, kind(item.get_ref()));
                    self.wrong(&format!("{key}.{i}"), Problem::new("wrong_type", problem).hint(hint.as_str()));
                }
            }
        }
        (texts.len() == items.len()).then_some(texts)
    }

    /// One text or a list of them.
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Option<Vec<String>> {
        let items = self.ask(key).and_then(one_or_more);
        if items.is_none() && self.has(key) {
            self.mismatch(key, "a name or a list of names", &format!("write `{key} = \"account_id\"` or `{key} = [\"a\", \"b\"]`"));
        }
        items
    }

    /// A table of texts or lists of texts.
    pub(super) fn names_by_name(&mut self, key: &'static str) -> Option<Named<Vec<String>>> {
        let items = match self.ask(key)? {
            DeValue::Table(table) => {
                in_order(table).into_iter().map(|(k, v)| Some((k.to_owned(), one_or_more(v)?))).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        if items.is_none() {
            self.mismatch(key, "a table of names", &format!("write `{key} = {{ account = \"account_id\" }}`"));
        }
        items.map(Named)
    }

    /// Pairs of columns: one name for both, a list of such, or a table.
    pub(super) fn pairs(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
        let value = self.ask(key)?;
        let pairs = match value {
            DeValue::Table(table) => {
                in_order(table).into_iter().map(|(k, v)| Some((k.to_owned(), text_of(v)?))).collect::<Option<Vec<_>>>()
            }
            other => one_or_more(other).map(|names| names.into_iter().map(|n| (n.clone(), n)).collect()),
        };
        if pairs.as_ref().is_none_or(Vec::is_empty) {
            let hint =
                format!("write `{key} = \"application_id\"`, or `{key} = {{ application_id = \"loan_id\" }}` where the names differ");
            self.mismatch(key, "the column both sides share", &hint);
            return None;
        }
        pairs
    }

    /// A table of words; tables in it count as dotted names.
    pub(super) fn words_by_name<T: Word>(&mut self, key: &'static str) -> Option<Named<T>> {
        let DeValue::Table(table) = self.ask(key)? else {
            let hint = format!("write `{key} = {{ name = \"{}\" }}`", T::WORDS.first().map_or("...", |(w, _)| w));
            self.mismatch(key, "a table", &hint);
            return None;
        };
        let mut found = Vec::new();
        for (name, value) in in_order(table) {
            match value {
                DeValue::Table(inner) => found.extend(in_order(inner).into_iter().map(|(k, v)| (join(name, k), v))),
                other => found.push((name.to_owned(), other)),
            }
        }
        let mut words = Vec::new();
        for (name, value) in found {
            let path = format!("{key}.{name}");
            match value {
                DeValue::String(word) => words.push(self.word_in(&path, word).map(|w| (name, w))),
                _ => {
                    let problem = Problem::new("wrong_type", format!("`{path}` must be a word in quotes, not {}", kind(value)));
                    self.wrong(&path, problem.hint(format!("one of: {}", list(T::WORDS.iter().map(|(w, _)| *w)))));
                    words.push(None);
                }
            }
        }
        words.into_iter().collect::<Option<Vec<_>>>().map(Named)
    }

    pub(super) fn scalar(&mut self, key: &'static str) -> Option<Scalar> {
        let scalar = match self.ask(key)? {
            DeValue::Boolean(b) => Some(Scalar::Bool(*b)),
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(Scalar::Int),
            DeValue::Float(x) => x.as_str().parse().ok().filter(|x: &f64| x.is_finite()).map(Scalar::Float),
            DeValue::String(s) => Some(Scalar::Text(s.to_string())),
            _ => None,
        };
        if scalar.is_none() {
            self.mismatch(key, "a number, true, false or a text", &format!("write `{key} = 0`"));
        }
        scalar
    }

    /// Whether a text stands under the key, where a table could as well.
    pub(super) fn holds_text(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key && matches!(e.value, DeValue::String(_)))
    }

    /// A table of numbers, texts and booleans, of lists of them, and of tables of these by name, as JSON.
    pub(super) fn settings(&mut self, key: &'static str) -> Option<BTreeMap<String, serde_json::Value>> {
        let DeValue::Table(table) = self.ask(key)? else {
            self.mismatch(key, "a table", &format!("write `{key} = {{ trees = 200, leaves = 31 }}`"));
            return None;
        };
        let mut settings = BTreeMap::new();
        for (name, value) in in_order(table) {
            match setting(value) {
                Some(json) => {
                    settings.insert(name.to_owned(), json);
                }
                None => {
                    let problem = Problem::new("wrong_type", format!("`{key}.{name}` must be a number, not {}", kind(value)));
                    self.wrong(&format!("{key}.{name}"), problem.hint("settings of learners are numbers, texts, booleans, lists of these, or tables such as `{ income = [1000, 2000] }`"));
                }
            }
        }
        Some(settings)
    }

    /// The table under `key`, if it is there.
    pub(super) fn table(&mut self, key: &'static str, what: impl Into<String>) -> Option<Reader<'d>> {
        match self.ask(key)? {
            DeValue::Table(table) => Some(Reader::new(self.document, &self.at(key), what, table)),
            _ => {
                self.mismatch(key, "a table", &format!("write `[{}]`, or `{key} = {{ ... }}`", self.at(key)));
                None
            }
        }
    }

    /// Every entry of the table under `key`: its name and its value, a table or not.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(&'d str, &'d DeValue<'d>)> {
        match self.ask(key) {
            None => Vec::new(),
            Some(DeValue::Table(table)) => in_order(table),
            Some(_) => {
                self.mismatch(key, "a table of named tables", &format!("write `[{}.NAME]`", self.at(key)));
                Vec::new()
            }
        }
    }

    /// The tables of a list.
    pub(super) fn tables(&mut self, key: &'static str, what: &str) -> Option<Vec<Reader<'d>>> {
        let tables = match self.ask(key)? {
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| match item.get_ref() {
                    DeValue::Table(table) => Some(Reader::new(self.document, &self.at(&format!("{key}.{i}")), what, table)),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if tables.is_none() {
            self.mismatch(key, "a list of tables", &format!("write `{key} = [{{ ... }}, {{ ... }}]`"));
        }
        tables
    }

    /// Reports every key that is not there or that nobody asked for.
    pub(super) fn finish(self) {
        let unknown: Vec<&Entry<'_>> = self.entries.iter().filter(|e| !self.asked.contains(&e.key)).collect();
        for entry in &unknown {
            let what = if self.path.is_empty() { "section" } else { "key" };
            let mut problem = Problem::unknown(
                if self.path.is_empty() { "unknown_section" } else { "unknown_key" },
                what,
                entry.key,
                self.asked.iter().copied(),
            );
            if !self.path.is_empty() {
                problem.message = format!("{} in {}", problem.message, self.what);
            }
            self.document.error(At::Key(&self.at(entry.key)), problem);
        }
        for (key, problem) in self.missing {
            // A slip of the fingers in the key itself has been reported as such.
            if !unknown.iter().any(|e| nearest(e.key, self.asked.iter().copied()) == Some(key)) {
                self.document.error(At::Key(&self.path), problem);
            }
        }
    }
}

/// Keys and values of a table as written.
fn in_order<'d>(table: &'d DeTable<'d>) -> Vec<(&'d str, &'d DeValue<'d>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter().map(|(k, v)| (k.get_ref().as_ref(), v.get_ref())).collect()
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(s) => Some(s.to_string()),
        _ => None,
    }
}

fn setting(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::Boolean(b) => Some((*b).into()),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(serde_json::Value::from),
        DeValue::Float(x) => x.as_str().parse::<f64>().ok().filter(|x| x.is_finite()).map(serde_json::Value::from),
        DeValue::String(s) => Some(s.as_ref().into()),
        DeValue::Array(items) => items.iter().map(|item| setting(item.get_ref())).collect::<Option<Vec<_>>>().map(serde_json::Value::from),
        DeValue::Table(table) => {
            let mut found = serde_json::Map::new();
            for (name, value) in in_order(table) {
                match value {
                    // A dotted name, such as an input's.
                    DeValue::Table(inner) => {
                        for (last, value) in in_order(inner) {
                            found.insert(join(name, last), setting(value)?);
                        }
                    }
                    other => {
                        found.insert(name.to_owned(), setting(other)?);
                    }
                }
            }
            Some(found.into())
        }
        DeValue::Datetime(_) => None,
    }
}

fn one_or_more(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(s) => Some(vec![s.to_string()]),
        DeValue::Array(items) if !items.is_empty() => items.iter().map(|item| text_of(item.get_ref())).collect(),
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("\"{s}\""),
        DeValue::Integer(i) => i.to_string(),
        DeValue::Float(x) => x.to_string(),
        other => kind(other).to_owned(),
    }
}
