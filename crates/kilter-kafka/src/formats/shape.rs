//! What the fields of a schema are, whatever it is written in: to tell what became of them from one schema to the next, and whether columns can be read of them.

use std::collections::BTreeMap;

use kilter_core::DataType;

/// The fields of a schema by their paths: `amount`, `address.city`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    fields: BTreeMap<String, (Kind, String)>,
}

/// What a field's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Decimal,
    Text,
    Date,
    TimeOfDay,
    Timestamp,
    /// A name of an enumeration that has a number, too.
    NumberedName,
    /// Lists, maps and records.
    Nested,
    /// Of several kinds, or of one that is not told.
    Any,
}

impl Shape {
    /// Levels of records in each other that are told of.
    pub(super) const MAX_DEPTH: usize = 16;
    /// A few types that use each other make millions of paths.
    const MAX_FIELDS: usize = 4096;

    pub(super) fn add(&mut self, path: &str, kind: Kind, told: String) {
        self.fields.insert(path.to_owned(), (kind, told));
    }

    pub(super) fn is_full(&self) -> bool {
        self.fields.len() >= Shape::MAX_FIELDS
    }

    /// The types' names by path, as people know them.
    pub fn told(&self) -> BTreeMap<String, String> {
        self.fields.iter().map(|(path, (_, told))| (path.clone(), told.clone())).collect()
    }

    /// The type's name of a field that is not nested.
    pub(crate) fn type_of(&self, field: &str) -> Option<(Kind, &str)> {
        self.fields.get(field).map(|(kind, told)| (*kind, told.as_str()))
    }

    /// Names of the fields that are not nested.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.fields.keys().map(String::as_str).filter(|path| !path.contains('.'))
    }
}

impl Kind {
    /// Whether a column of that type can be read of it. What depends on the value can.
    pub(crate) fn reads_as(self, declared: DataType) -> bool {
        use Kind::*;
        match declared {
            _ if matches!(self, Null | Any) => true,
            DataType::Bool => self == Bool,
            DataType::Int64 => matches!(self, Int | Float | Decimal | Date | TimeOfDay | Timestamp | NumberedName),
            DataType::Float64 => matches!(self, Int | Float | Decimal),
            DataType::String => matches!(self, Text | Decimal | Date | TimeOfDay | Timestamp | NumberedName),
            DataType::Timestamp => matches!(self, Int | Float | Text | Decimal | Date | Timestamp),
            DataType::NumberList | DataType::TextList | DataType::NumberMap => false,
        }
    }
}
