//! Avro: a schema's text into a table of nodes, and a record's bytes by it into JSON text, without a tree of values in between.
//!
//! After the specification 1.12 (<https://avro.apache.org/docs/1.12.0/specification/>). The schema is the writer's; what readers' schemas are for elsewhere, the
//! definitions' columns are here, so that there is nothing to resolve and no default to fill in. Besides logical types the names that Debezium gives to numbers
//! (`connect.name`) are known: a date of days is no time of seconds.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::shape::{Kind, Shape};
use super::text::{Place, Text, TooMuch};

/// A schema, ready to read by.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    root: Id,
}

type Id = usize;

#[derive(Clone, Debug)]
enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Vec<(String, Id)>),
    /// Of this many bytes; none: it says itself how many.
    Decimal {
        size: Option<usize>,
        precision: u64,
        scale: usize,
    },
    /// Debezium's: a scale, then a decimal.
    VariableDecimal,
    Date,
    /// A time of day.
    Time(Stored),
    Timestamp {
        stored: Stored,
        local: bool,
    },
    /// Of 16 bytes.
    Uuid,
    /// Months, days and milliseconds.
    Duration,
}

/// A number of this many units a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    per_second: i64,
}

const MILLIS: Stored = Stored { per_second: 1_000 };
const MICROS: Stored = Stored { per_second: 1_000_000 };
const NANOS: Stored = Stored { per_second: 1_000_000_000 };

/// Levels of types in each other that a schema may have.
const MAX_DEPTH: usize = 64;

impl Schema {
    /// Reads the text of a schema; `references`: those of the schemas whose names it uses, each after what it uses itself.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, references: &[String]) -> Result<Schema, String> {
        let mut parser = Parser { nodes: Vec::new(), names: BTreeMap::new() };
        for reference in references {
            parser.text(reference)?;
        }
        let root = parser.text(text)?;
        Ok(Schema { nodes: parser.nodes, root })
    }

    /// One record as JSON text.
    ///
    /// # Errors
    /// What keeps the bytes from being a record of this schema, in words.
    pub(super) fn decode(&self, bytes: &[u8], place: Place<'_>) -> Result<Vec<u8>, String> {
        let mut reader = Reader { nodes: &self.nodes, bytes, at: 0, text: Text::new() };
        reader.value(self.root, place).map_err(|broken| format!("at byte {} of {}: {}", reader.at, bytes.len(), broken.message()))?;
        match bytes.len() - reader.at {
            0 => Ok(reader.text.into_bytes()),
            left => Err(format!("{left} bytes are left over after the record's {}", reader.at)),
        }
    }

    /// What the fields are; of an envelope, those of the row in it.
    pub fn shape(&self, is_enveloped: bool) -> Shape {
        let mut root = self.root;
        if is_enveloped && let Some(row) = self.field(root, "after").and_then(|after| self.record_in(after)) {
            root = row;
        }
        let mut shape = Shape::default();
        if let Node::Record(fields) = &self.nodes[root] {
            self.fields(fields, "", &mut vec![root], &mut shape);
        }
        shape
    }

    fn field(&self, record: Id, name: &str) -> Option<Id> {
        match &self.nodes[record] {
            Node::Record(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, id)| *id),
            _ => None,
        }
    }

    fn record_in(&self, id: Id) -> Option<Id> {
        match &self.nodes[id] {
            Node::Record(_) => Some(id),
            Node::Union(branches) => branches.iter().copied().find(|branch| matches!(self.nodes[*branch], Node::Record(_))),
            _ => None,
        }
    }

    fn fields(&self, fields: &[(String, Id)], path: &str, above: &mut Vec<Id>, shape: &mut Shape) {
        for (name, id) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let (kind, told) = self.described(*id);
            shape.add(&path, kind, told);
            if let Some(record) = self.record_in(*id)
                && let Node::Record(inner) = &self.nodes[record]
                && !above.contains(&record)
                && above.len() < Shape::MAX_DEPTH
                && !shape.is_full()
            {
                above.push(record);
                self.fields(inner, &path, above, shape);
                above.pop();
            }
        }
    }

    /// What a value is, and the type's name for people.
    fn described(&self, id: Id) -> (Kind, String) {
        let timestamp = |stored: Stored, local: bool| format!("{}timestamp-{}", if local { "local-" } else { "" }, stored.name());
        let (kind, told) = match &self.nodes[id] {
            Node::Null => (Kind::Null, "null".to_owned()),
            Node::Boolean => (Kind::Bool, "boolean".to_owned()),
            Node::Int => (Kind::Int, "int".to_owned()),
            Node::Long => (Kind::Int, "long".to_owned()),
            Node::Float => (Kind::Float, "float".to_owned()),
            Node::Double => (Kind::Float, "double".to_owned()),
            Node::Bytes => (Kind::Text, "bytes".to_owned()),
            Node::String => (Kind::Text, "string".to_owned()),
            Node::Fixed(size) => (Kind::Text, format!("fixed({size})")),
            Node::Enum(_) => (Kind::Text, "enum".to_owned()),
            Node::Array(_) => (Kind::Nested, "array".to_owned()),
            Node::Map(_) => (Kind::Nested, "map".to_owned()),
            Node::Record(_) => (Kind::Nested, "record".to_owned()),
            Node::Decimal { precision, scale, .. } => (Kind::Decimal, format!("decimal({precision}, {scale})")),
            Node::VariableDecimal => (Kind::Decimal, "decimal".to_owned()),
            Node::Date => (Kind::Date, "date".to_owned()),
            Node::Time(stored) => (Kind::TimeOfDay, format!("time-{}", stored.name())),
            Node::Timestamp { stored, local } => (Kind::Timestamp, timestamp(*stored, *local)),
            Node::Uuid => (Kind::Text, "uuid".to_owned()),
            Node::Duration => (Kind::Text, "duration".to_owned()),
            Node::Union(branches) => {
                let described: Vec<(Kind, String)> = branches.iter().map(|branch| self.described(*branch)).collect();
                let kinds = described.iter().map(|(kind, _)| *kind).filter(|kind| *kind != Kind::Null);
                let kind = kinds.reduce(|a, b| if a == b { a } else { Kind::Any }).unwrap_or(Kind::Null);
                let (nulls, others): (Vec<_>, Vec<_>) = described.into_iter().partition(|(kind, _)| *kind == Kind::Null);
                let names: Vec<String> = others.into_iter().chain(nulls).map(|(_, told)| told).collect();
                (kind, names.join(" or "))
            }
        };
        (kind, told)
    }
}

impl Stored {
    fn name(self) -> &'static str {
        match self.per_second {
            1_000 => "millis",
            1_000_000 => "micros",
            _ => "nanos",
        }
    }
}

struct Parser {
    nodes: Vec<Node>,
    /// By full name.
    names: BTreeMap<String, Id>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<Id, String> {
        // A schema that is one name may come without quotes.
        let json = match text.trim() {
            name if PRIMITIVES.iter().any(|(primitive, _)| *primitive == name) => Json::String(name.to_owned()),
            text => serde_json::from_str(text).map_err(|e| format!("the schema is not JSON: {e}"))?,
        };
        self.schema(&json, "", 0)
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn schema(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<Id, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the schema is nested deeper than {MAX_DEPTH} levels"));
        }
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => {
                let branches: Vec<Id> = branches.iter().map(|b| self.schema(b, namespace, depth + 1)).collect::<Result<_, _>>()?;
                if branches.iter().any(|branch| matches!(self.nodes[*branch], Node::Union(_))) {
                    return Err("a union stands in a union".to_owned());
                }
                Ok(self.add(Node::Union(branches)))
            }
            Json::Object(object) => match object.get("type") {
                Some(Json::String(kind)) => self.object(kind, json, namespace, depth),
                Some(inner) => self.schema(inner, namespace, depth + 1),
                None => Err("a type says no `type`".to_owned()),
            },
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<Id, String> {
        if let Some((_, node)) = PRIMITIVES.iter().find(|(primitive, _)| *primitive == name) {
            return Ok(self.add(node.clone()));
        }
        let full = full_name(name, namespace);
        let found = self.names.get(&full).or_else(|| self.names.get(name)).copied();
        found.ok_or_else(|| format!("no type is named `{full}`"))
    }

    fn object(&mut self, kind: &str, json: &Json, namespace: &str, depth: usize) -> Result<Id, String> {
        let part = |key: &str| json.get(key).ok_or_else(|| format!("a type \"{kind}\" says no `{key}`"));
        match kind {
            "array" => {
                let items = self.schema(part("items")?, namespace, depth + 1)?;
                Ok(self.add(Node::Array(items)))
            }
            "map" => {
                let values = self.schema(part("values")?, namespace, depth + 1)?;
                Ok(self.add(Node::Map(values)))
            }
            "record" | "error" | "enum" | "fixed" => {
                let name = part("name")?.as_str().ok_or("a type's name is no text")?;
                let namespace = json.get("namespace").and_then(Json::as_str).unwrap_or(namespace);
                let full = full_name(name, namespace);
                let id = self.add(Node::Null);
                if self.names.insert(full.clone(), id).is_some() {
                    return Err(format!("two types are named `{full}`"));
                }
                for alias in json.get("aliases").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
                    self.names.entry(full_name(alias, namespace)).or_insert(id);
                }
                self.nodes[id] = match kind {
                    "enum" => Node::Enum(symbols(part("symbols")?)?),
                    "fixed" => fixed(part("size")?, json)?,
                    _ => self.record(part("fields")?, json, full.rsplit_once('.').map_or("", |(namespace, _)| namespace), depth)?,
                };
                Ok(id)
            }
            _ => {
                let id = self.named(kind, namespace)?;
                match meaning(&self.nodes[id], json) {
                    Some(node) => Ok(self.add(node)),
                    None => Ok(id),
                }
            }
        }
    }

    fn record(&mut self, fields: &Json, json: &Json, namespace: &str, depth: usize) -> Result<Node, String> {
        let fields = fields.as_array().ok_or("a record's `fields` are no list")?;
        let mut found: Vec<(String, Id)> = Vec::with_capacity(fields.len());
        for field in fields {
            let name = field.get("name").and_then(Json::as_str).ok_or("a field has no `name`")?;
            if found.iter().any(|(other, _)| other == name) {
                return Err(format!("two fields of a record are named `{name}`"));
            }
            let of = field.get("type").ok_or_else(|| format!("field `{name}` says no `type`"))?;
            // What a logical type belongs to is the type; some writers put it beside the field's name.
            let id = match of {
                Json::String(kind) if !matches!(kind.as_str(), "record" | "enum" | "fixed" | "array" | "map" | "error") => {
                    self.object(kind, field, namespace, depth + 1)
                }
                of => self.schema(of, namespace, depth + 1),
            };
            found.push((name.to_owned(), id.map_err(|problem| format!("field `{name}`: {problem}"))?));
        }
        let is_variable_decimal = json.get("connect.name").and_then(Json::as_str) == Some("io.debezium.data.VariableScaleDecimal")
            && matches!(found.as_slice(), [(_, scale), (_, value)] if matches!((&self.nodes[*scale], &self.nodes[*value]), (Node::Int, Node::Bytes)));
        Ok(if is_variable_decimal { Node::VariableDecimal } else { Node::Record(found) })
    }
}

const PRIMITIVES: [(&str, Node); 8] = [
    ("null", Node::Null),
    ("boolean", Node::Boolean),
    ("int", Node::Int),
    ("long", Node::Long),
    ("float", Node::Float),
    ("double", Node::Double),
    ("bytes", Node::Bytes),
    ("string", Node::String),
];

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn symbols(json: &Json) -> Result<Vec<String>, String> {
    let symbols = json.as_array().ok_or("an enum's `symbols` are no list")?;
    symbols.iter().map(|s| s.as_str().map(str::to_owned).ok_or_else(|| "a symbol of an enum is no text".to_owned())).collect()
}

fn fixed(size: &Json, json: &Json) -> Result<Node, String> {
    let size = size.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("a fixed `size` is no number")?;
    let logical = json.get("logicalType").and_then(Json::as_str).unwrap_or_default();
    Ok(match (logical, size) {
        ("decimal", _) => decimal(json, Some(size)).unwrap_or(Node::Fixed(size)),
        ("uuid", 16) => Node::Uuid,
        ("duration", 12) => Node::Duration,
        _ => Node::Fixed(size),
    })
}

/// A decimal whose attributes make no sense is what it is made of, as the specification has it.
fn decimal(json: &Json, size: Option<usize>) -> Option<Node> {
    let precision = json.get("precision")?.as_u64()?;
    let scale = json.get("scale").map_or(Some(0), Json::as_u64)?;
    (precision > 0 && scale <= precision).then_some(Node::Decimal { size, precision, scale: usize::try_from(scale).ok()? })
}

/// What a number, text or bytes stand for; none: for themselves. A logical type that does not fit what it is of means nothing.
fn meaning(of: &Node, json: &Json) -> Option<Node> {
    let attribute = |key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default();
    let timestamp = |stored, local| Some(Node::Timestamp { stored, local });
    let logical = match (of, attribute("logicalType")) {
        (Node::Bytes, "decimal") => decimal(json, None),
        (Node::Int, "date") => Some(Node::Date),
        (Node::Int, "time-millis") => Some(Node::Time(MILLIS)),
        (Node::Long, "time-micros") => Some(Node::Time(MICROS)),
        (Node::Long, "timestamp-millis") => timestamp(MILLIS, false),
        (Node::Long, "timestamp-micros") => timestamp(MICROS, false),
        (Node::Long, "timestamp-nanos") => timestamp(NANOS, false),
        (Node::Long, "local-timestamp-millis") => timestamp(MILLIS, true),
        (Node::Long, "local-timestamp-micros") => timestamp(MICROS, true),
        (Node::Long, "local-timestamp-nanos") => timestamp(NANOS, true),
        _ => None,
    };
    logical.or_else(|| match (of, attribute("connect.name")) {
        (Node::Int, "io.debezium.time.Date") => Some(Node::Date),
        (Node::Int, "io.debezium.time.Time") => Some(Node::Time(MILLIS)),
        (Node::Long, "io.debezium.time.MicroTime") => Some(Node::Time(MICROS)),
        (Node::Long, "io.debezium.time.NanoTime") => Some(Node::Time(NANOS)),
        (Node::Long, "io.debezium.time.Timestamp") => timestamp(MILLIS, false),
        (Node::Long, "io.debezium.time.MicroTimestamp") => timestamp(MICROS, false),
        (Node::Long, "io.debezium.time.NanoTimestamp") => timestamp(NANOS, false),
        _ => None,
    })
}

struct Reader<'a> {
    nodes: &'a [Node],
    bytes: &'a [u8],
    at: usize,
    text: Text,
}

/// What keeps bytes from being a value.
enum Broken {
    Ends,
    Varint,
    Int(i64),
    Boolean(u8),
    Branch(i64),
    Symbol(i64),
    Length(i64),
    NotUtf8,
    TooMuch(TooMuch),
}

impl Broken {
    fn message(&self) -> String {
        match self {
            Broken::Ends => "the record ends within a value".to_owned(),
            Broken::Varint => "a number of more than ten bytes".to_owned(),
            Broken::Int(n) => format!("{n} is no int of 32 bits"),
            Broken::Boolean(b) => format!("{b} is no boolean"),
            Broken::Branch(n) => format!("a union has no branch {n}"),
            Broken::Symbol(n) => format!("an enum has no symbol {n}"),
            Broken::Length(n) => format!("{n} is no length"),
            Broken::NotUtf8 => "a string is not UTF-8".to_owned(),
            Broken::TooMuch(what) => what.message(),
        }
    }
}

impl From<TooMuch> for Broken {
    fn from(what: TooMuch) -> Broken {
        Broken::TooMuch(what)
    }
}

impl<'a> Reader<'a> {
    fn value(&mut self, id: Id, place: Place<'_>) -> Result<(), Broken> {
        self.text.count()?;
        let nodes = self.nodes;
        match &nodes[id] {
            Node::Null => self.text.null(),
            Node::Boolean => match self.take(1)? {
                [b @ (0 | 1)] => self.text.bool(*b == 1),
                other => return Err(Broken::Boolean(other.first().copied().unwrap_or_default())),
            },
            Node::Int => {
                let n = self.int()?;
                self.text.int(i64::from(n));
            }
            Node::Long => {
                let n = self.long()?;
                self.text.int(n);
            }
            Node::Float => {
                let x = f32::from_le_bytes(self.array()?);
                self.text.float(f64::from(x));
            }
            Node::Double => {
                let x = f64::from_le_bytes(self.array()?);
                self.text.float(x);
            }
            Node::Bytes => {
                let bytes = self.sized()?;
                self.text.bytes(bytes);
            }
            Node::String => {
                let text = self.string()?;
                self.text.text(text);
            }
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.text.bytes(bytes);
            }
            Node::Enum(symbols) => {
                let n = self.long()?;
                let symbol = usize::try_from(n).ok().and_then(|n| symbols.get(n)).ok_or(Broken::Symbol(n))?;
                self.text.text(symbol);
            }
            Node::Union(branches) => {
                let n = self.long()?;
                let branch = usize::try_from(n).ok().and_then(|n| branches.get(n)).ok_or(Broken::Branch(n))?;
                self.value(*branch, place)?;
            }
            Node::Record(fields) => {
                self.text.open(b'{')?;
                for (name, id) in fields {
                    self.text.key(name);
                    self.value(*id, place.field(name))?;
                    self.text.comma();
                }
                self.text.close(b'}');
            }
            Node::Array(items) => {
                self.text.open(b'[')?;
                self.blocks(|reader| reader.value(*items, Place::Value(None)))?;
                self.text.close(b']');
            }
            Node::Map(values) => {
                self.text.open(b'{')?;
                self.blocks(|reader| {
                    let key = reader.string()?;
                    reader.text.key(key);
                    reader.value(*values, place.field(key))
                })?;
                self.text.close(b'}');
            }
            Node::Decimal { size, scale, .. } => {
                let unscaled = match size {
                    Some(size) => self.take(*size)?,
                    None => self.sized()?,
                };
                self.text.decimal(unscaled, *scale, place)?;
            }
            Node::VariableDecimal => {
                let scale = self.int()?;
                let scale = usize::try_from(scale).map_err(|_| Broken::Length(i64::from(scale)))?;
                let unscaled = self.sized()?;
                self.text.decimal(unscaled, scale, place)?;
            }
            Node::Date => {
                let days = self.int()?;
                self.text.date(days, place);
            }
            Node::Time(stored) => {
                let raw = if *stored == MILLIS { i64::from(self.int()?) } else { self.long()? };
                self.text.time(raw, stored.per_second, place);
            }
            Node::Timestamp { stored, local } => {
                let raw = self.long()?;
                self.text.timestamp(raw, stored.per_second, *local, place);
            }
            Node::Uuid => {
                let bytes = self.array()?;
                self.text.uuid(bytes);
            }
            Node::Duration => {
                let [months, days, millis] = [self.array()?, self.array()?, self.array()?].map(u32::from_le_bytes);
                self.text.text(&format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000));
            }
        }
        Ok(())
    }

    /// Elements of a list or map, in blocks that each say how many they hold; a negative number means that the block's size follows.
    fn blocks(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        loop {
            let count = self.long()?;
            if count < 0 {
                self.long()?;
            }
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count.unsigned_abs() {
                element(self)?;
                self.text.comma();
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let taken = self.bytes[self.at..].get(..n).ok_or(Broken::Ends)?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.take(N)?.try_into().map_err(|_| Broken::Ends)
    }

    /// Zigzag, seven bits a byte, the lowest first.
    fn long(&mut self) -> Result<i64, Broken> {
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            // The tenth byte has room for one bit only.
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((n >> 1) as i64 ^ -((n & 1) as i64));
            }
        }
        Err(Broken::Varint)
    }

    fn int(&mut self) -> Result<i32, Broken> {
        let n = self.long()?;
        i32::try_from(n).map_err(|_| Broken::Int(n))
    }

    fn sized(&mut self) -> Result<&'a [u8], Broken> {
        let n = self.long()?;
        self.take(usize::try_from(n).map_err(|_| Broken::Length(n))?)
    }

    fn string(&mut self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.sized()?).map_err(|_| Broken::NotUtf8)
    }
}
