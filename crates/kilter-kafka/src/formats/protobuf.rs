//! Protocol Buffers: the text of `.proto` files into descriptors, and a message's bytes by them into JSON text.
//!
//! Fields have the names of the `.proto` file. One that tracks presence and is not there is null; one that does not has its default, as the language has it.
//! Well-known types become what they mean: a `Timestamp` a time, a wrapper its value.

use std::collections::BTreeMap;
use std::path::Path;

use kilter_core::DataType;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DynamicMessage, FieldDescriptor, FileDescriptor, Kind as Type, MapKey, MessageDescriptor, ReflectMessage, Value};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use super::shape::{Kind, Shape};
use super::text::{Place, Text, TooMuch};

/// A `.proto` file with all that it imports.
#[derive(Debug)]
pub struct Schema {
    file: FileDescriptor,
}

/// One message of it.
#[derive(Clone, Debug)]
pub struct Message(MessageDescriptor);

/// The name under which the text of a schema is compiled.
const OWN_NAME: &str = "kilter-record.proto";

/// Files that the registry's own serializers import and do not register.
const BUILT_IN: [(&str, &str); 4] = [
    ("confluent/meta.proto", include_str!("protos/confluent-meta.proto")),
    ("confluent/type/decimal.proto", include_str!("protos/confluent-decimal.proto")),
    ("google/type/date.proto", include_str!("protos/google-date.proto")),
    ("google/type/timeofday.proto", include_str!("protos/google-timeofday.proto")),
];

impl Schema {
    /// Compiles the text of a schema; `references`: the files it imports, directly or not, by the names under which it does.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, references: &BTreeMap<String, String>) -> Result<Schema, String> {
        let mut files = references.clone();
        files.insert(OWN_NAME.to_owned(), text.to_owned());
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(files));
        Schema::compile(resolver, OWN_NAME)
    }

    /// Compiles a file; what it imports lies in its folder.
    ///
    /// # Errors
    /// As those of [`Schema::parse`].
    pub fn open(path: &Path) -> Result<Schema, String> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Err("it is no file".to_owned());
        };
        let mut resolver = ChainFileResolver::new();
        resolver.add(IncludeFileResolver::new(folder.to_owned()));
        Schema::compile(resolver, name)
    }

    fn compile(mut resolver: ChainFileResolver, name: &str) -> Result<Schema, String> {
        let built_in = BUILT_IN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        resolver.add(Texts(built_in.collect()));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file(name).map_err(|e| format!("the schema does not compile: {e}"))?;
        let file = compiler.descriptor_pool().get_file_by_name(name).ok_or("the schema does not compile")?;
        Ok(Schema { file })
    }

    /// The message of that full name, in this file or one it imports.
    ///
    /// # Errors
    /// There is none; with the names there are.
    pub fn message(&self, name: &str) -> Result<Message, String> {
        let found = self.file.parent_pool().get_message_by_name(name);
        found.map(Message).ok_or_else(|| {
            let names: Vec<String> = self.file.messages().map(|m| m.full_name().to_owned()).collect();
            format!("there is no message `{name}`; there are: {}", kilter_core::list(names.iter().map(String::as_str)))
        })
    }

    /// The messages that are in no other.
    pub(super) fn messages(&self) -> impl Iterator<Item = Message> + '_ {
        self.file.messages().map(Message)
    }

    /// The message at the end of a path of positions: the first among the file's messages, the next among those that it contains.
    pub(super) fn message_at(&self, path: &[usize]) -> Option<Message> {
        let (first, inner) = path.split_first()?;
        let message = self.file.messages().nth(*first)?;
        inner.iter().try_fold(message, |message, position| message.child_messages().nth(*position)).map(Message)
    }
}

struct Texts(BTreeMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = self.0.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        // Confluent's serializer of Python registers descriptors, and some registries hand them out as they got them.
        match from_base64(text.trim()).map(|bytes| FileDescriptorProto::decode(bytes.as_slice())) {
            Some(Ok(file)) => Ok(File::from_file_descriptor_proto(FileDescriptorProto { name: Some(name.to_owned()), ..file })),
            Some(Err(_)) | None => File::from_source(name, text),
        }
    }
}

/// The bytes of a text in base64; none: it is another text, as that of a `.proto` file always is.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let sextet = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (held, bits) = ((held << 6) | u32::from(sextet), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

impl Message {
    pub(super) fn name(&self) -> &str {
        self.0.full_name()
    }

    /// One record as JSON text.
    ///
    /// # Errors
    /// What keeps the bytes from being such a message, in words.
    pub(super) fn decode(&self, bytes: &[u8], place: Place<'_>) -> Result<Vec<u8>, String> {
        let message = DynamicMessage::decode(self.0.clone(), bytes).map_err(|e| format!("as message {}: {e}", self.0.full_name()))?;
        let mut text = Text::new();
        write_message(&mut text, &message, place).map_err(TooMuch::message)?;
        Ok(text.into_bytes())
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> &MessageDescriptor {
        &self.0
    }

    /// What the fields are; of an envelope, those of the row in it.
    pub fn shape(&self, is_enveloped: bool) -> Shape {
        let row = self.0.get_field_by_name("after").filter(|_| is_enveloped).map(|after| after.kind());
        let root = match row {
            Some(Type::Message(row)) => row,
            _ => self.0.clone(),
        };
        let mut shape = Shape::default();
        fields(&root, "", &mut vec![root.full_name().to_owned()], &mut shape);
        shape
    }
}

fn fields(message: &MessageDescriptor, path: &str, above: &mut Vec<String>, shape: &mut Shape) {
    for field in message.fields() {
        let path = if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
        let (kind, told) = described(&field);
        shape.add(&path, kind, told);
        if let (Kind::Nested, Type::Message(inner)) = (kind, field.kind())
            && !field.is_list()
            && !field.is_map()
            && !above.iter().any(|name| name == inner.full_name())
            && above.len() < Shape::MAX_DEPTH
            && !shape.is_full()
        {
            above.push(inner.full_name().to_owned());
            fields(&inner, &path, above, shape);
            above.pop();
        }
    }
}

/// What a field's values are, and the type's name for people.
fn described(field: &FieldDescriptor) -> (Kind, String) {
    if field.is_map() {
        return (Kind::Nested, "map".to_owned());
    }
    let (kind, told) = match field.kind() {
        Type::Double => (Kind::Float, "double".to_owned()),
        Type::Float => (Kind::Float, "float".to_owned()),
        Type::Bool => (Kind::Bool, "bool".to_owned()),
        Type::String => (Kind::Text, "string".to_owned()),
        Type::Bytes => (Kind::Text, "bytes".to_owned()),
        Type::Enum(of) => (Kind::NumberedName, of.full_name().to_owned()),
        Type::Message(of) => (meaning(&of), of.full_name().to_owned()),
        number => (Kind::Int, format!("{number:?}").to_ascii_lowercase()),
    };
    if field.is_list() { (Kind::Nested, format!("repeated {told}")) } else { (kind, told) }
}

/// What messages of a type mean.
fn meaning(message: &MessageDescriptor) -> Kind {
    match message.full_name() {
        "google.protobuf.Timestamp" => Kind::Timestamp,
        "google.protobuf.Duration" => Kind::Text,
        "google.protobuf.Value" => Kind::Any,
        "google.type.Date" => Kind::Date,
        "google.type.TimeOfDay" => Kind::TimeOfDay,
        "confluent.type.Decimal" => Kind::Decimal,
        name if is_wrapper(name) => match message.get_field_by_name("value").map(|value| value.kind()) {
            Some(Type::Bool) => Kind::Bool,
            Some(Type::Double | Type::Float) => Kind::Float,
            Some(Type::String | Type::Bytes) => Kind::Text,
            _ => Kind::Int,
        },
        _ => Kind::Nested,
    }
}

fn is_wrapper(name: &str) -> bool {
    const WRAPPED: [&str; 9] = ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"];
    let of = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    of.is_some_and(|of| WRAPPED.contains(&of))
}

fn write_message(text: &mut Text, message: &DynamicMessage, place: Place<'_>) -> Result<(), TooMuch> {
    text.open(b'{')?;
    let descriptor = message.descriptor();
    for field in descriptor.fields() {
        // Of a choice that was not made no alternative is there.
        text.key(field.name());
        text.count()?;
        if field.supports_presence() && !message.has_field(&field) {
            text.null();
        } else {
            write_field(text, &field, &message.get_field(&field), place.field(field.name()))?;
        }
        text.comma();
    }
    text.close(b'}');
    Ok(())
}

fn write_field(text: &mut Text, field: &FieldDescriptor, value: &Value, place: Place<'_>) -> Result<(), TooMuch> {
    match value {
        Value::List(items) => {
            text.open(b'[')?;
            for item in items {
                text.count()?;
                write_value(text, &field.kind(), item, Place::Value(None))?;
                text.comma();
            }
            text.close(b']');
        }
        Value::Map(entries) => {
            let Type::Message(entry) = field.kind() else { return Ok(()) };
            let kind = entry.map_entry_value_field().kind();
            // The library keeps them in no order; the same bytes must come to the same text.
            let ordered: BTreeMap<&MapKey, &Value> = entries.iter().collect();
            text.open(b'{')?;
            for (key, value) in ordered {
                text.count()?;
                text.key(&key_text(key));
                write_value(text, &kind, value, Place::Value(None))?;
                text.comma();
            }
            text.close(b'}');
        }
        value => write_value(text, &field.kind(), value, place)?,
    }
    Ok(())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
        MapKey::String(s) => s.clone(),
    }
}

fn write_value(text: &mut Text, kind: &Type, value: &Value, place: Place<'_>) -> Result<(), TooMuch> {
    match value {
        Value::Bool(b) => text.bool(*b),
        Value::I32(n) => text.int(i64::from(*n)),
        Value::I64(n) => text.int(*n),
        Value::U32(n) => text.uint(u64::from(*n)),
        Value::U64(n) => text.uint(*n),
        Value::F32(x) => text.float(f64::from(*x)),
        Value::F64(x) => text.float(*x),
        Value::String(s) => text.text(s),
        Value::Bytes(bytes) => text.bytes(bytes),
        Value::EnumNumber(n) => match kind.as_enum().and_then(|of| of.get_value(*n)) {
            Some(of) => text.name(of.name(), *n, place),
            None => text.int(i64::from(*n)),
        },
        Value::Message(message) => write_meaning(text, message, place)?,
        // Neither stands in itself.
        Value::List(_) | Value::Map(_) => text.null(),
    }
    Ok(())
}

fn write_meaning(text: &mut Text, message: &DynamicMessage, place: Place<'_>) -> Result<(), TooMuch> {
    let int = |name: &str| match message.get_field_by_name(name).as_deref() {
        Some(Value::I64(n)) => *n,
        Some(Value::I32(n)) => i64::from(*n),
        Some(Value::U32(n)) => i64::from(*n),
        _ => 0,
    };
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            let nanos = i128::from(int("seconds")) * 1_000_000_000 + i128::from(int("nanos"));
            match (i64::try_from(nanos), nanos % 1_000) {
                (Ok(nanos), 1..) if !place.is(DataType::Int64) => text.timestamp(nanos, 1_000_000_000, false, place),
                // To the microsecond where no nanoseconds were written, where they have no room, and in a column of numbers, which must be of one unit.
                _ => text.timestamp(saturated(nanos.div_euclid(1_000)), 1_000_000, false, place),
            }
        }
        "google.protobuf.Duration" => {
            let nanos = int("seconds").unsigned_abs() as u128 * 1_000_000_000 + u128::from(int("nanos").unsigned_abs());
            let sign = if int("seconds") < 0 || int("nanos") < 0 { "-" } else { "" };
            text.text(&format!("{sign}{}.{:09}s", nanos / 1_000_000_000, nanos % 1_000_000_000));
        }
        "google.type.Date" => text.text(&format!("{:04}-{:02}-{:02}", int("year"), int("month"), int("day"))),
        "google.type.TimeOfDay" => {
            let seconds = int("hours") * 3_600 + int("minutes") * 60 + int("seconds");
            text.time(seconds.saturating_mul(1_000_000_000).saturating_add(int("nanos")), 1_000_000_000, place);
        }
        "confluent.type.Decimal" => {
            let scale = usize::try_from(int("scale")).map_err(|_| TooMuch::Digits)?;
            match message.get_field_by_name("value").as_deref() {
                Some(Value::Bytes(unscaled)) => text.decimal(unscaled, scale, place)?,
                _ => text.null(),
            }
        }
        "google.protobuf.Struct" | "google.protobuf.ListValue" => match message.fields().next() {
            Some((field, value)) => write_field(text, &field, value, place)?,
            None if descriptor.full_name().ends_with("Struct") => text.empty(b"{}"),
            None => text.empty(b"[]"),
        },
        "google.protobuf.Value" => match message.fields().next() {
            Some((field, _)) if field.name() == "null_value" => text.null(),
            Some((field, value)) => write_value(text, &field.kind(), value, place)?,
            None => text.null(),
        },
        name if is_wrapper(name) => match descriptor.get_field_by_name("value") {
            Some(field) => write_value(text, &field.kind(), &message.get_field(&field), place)?,
            None => text.null(),
        },
        _ => write_message(text, message, place)?,
    }
    Ok(())
}

fn saturated(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}
