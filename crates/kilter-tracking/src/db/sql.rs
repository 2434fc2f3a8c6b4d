//! Statements that are put together, with their values.

use super::{Db, FromRow, Row, Value};
use crate::error::Result;

/// A statement that is put together piece by piece. It hardly comes again: it takes no place among those that are kept prepared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sql {
    text: String,
    values: Vec<Value<'static>>,
}

impl Sql {
    pub fn new(text: impl Into<String>) -> Sql {
        Sql { text: text.into(), values: Vec::new() }
    }

    pub fn push(&mut self, text: impl AsRef<str>) -> &mut Sql {
        self.text.push_str(text.as_ref());
        self
    }

    /// Puts a value here.
    pub fn bind(&mut self, value: impl Into<Value<'static>>) -> &mut Sql {
        self.values.push(value.into());
        self.text.push('?');
        self.text.push_str(&self.values.len().to_string());
        self
    }

    /// Puts values here, with commas between them.
    pub fn bind_all<V: Into<Value<'static>>>(&mut self, values: impl IntoIterator<Item = V>) -> &mut Sql {
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                self.text.push_str(", ");
            }
            self.bind(value);
        }
        self
    }

    #[cfg(test)]
    pub fn text(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub fn values(&self) -> &[Value<'static>] {
        &self.values
    }

    /// Runs it; answers how many rows it changed.
    pub fn execute(&self, db: &mut Db) -> Result<u64> {
        db.change(&self.text, &self.values, false)
    }

    /// Shows each row that it finds.
    pub fn each(&self, db: &mut Db, mut see: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        db.run(&self.text, &self.values, false, &mut see)
    }

    /// All rows that it finds.
    pub fn rows<T: FromRow>(&self, db: &mut Db) -> Result<Vec<T>> {
        db.collect(&self.text, &self.values, false)
    }

    /// The first row that it finds, if there is one.
    pub fn optional<T: FromRow>(&self, db: &mut Db) -> Result<Option<T>> {
        Ok(self.rows(db)?.into_iter().next())
    }
}
