//! Records in other forms than plain JSON: Avro, Protocol Buffers, and JSON by a schema registry.
//!
//! A record is turned into JSON text by its writer's schema, and that text is read as a record of JSON would be: columns take their values by name, what no column
//! names is kept, ignored or refused, an envelope is opened. So evolution needs no rules of its own: a column that the writer's schema does not have is null,
//! a field whose type changed is taken as far as its values fit the column.
//! See `docs/decisions/0036-formats-of-records.md`.

pub mod avro;
mod json_schema;
pub mod protobuf;
mod registry;
mod shape;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;
use std::sync::Arc;

use kilter_connect::{Decoded, Limits, OperationOf, Rejection, RowFormat, decode_message};
use kilter_core::EventTime;
use kilter_runtime::project::{Connector, Project, SourceDef, SourceFormat, TopicFormat};

pub use registry::{Known, Missing, Registry, Schema};
pub use shape::Shape;
use text::Place;

/// The project's schema registry, if it names one.
///
/// # Errors
/// As those of [`Registry::new`].
pub fn registry(project: &Project) -> anyhow::Result<Option<Arc<Registry>>> {
    let def = project.definitions.kafka.as_ref().and_then(|kafka| kafka.schema_registry.as_ref());
    def.map(|def| Registry::new(def, &project.dir).map(Arc::new)).transpose()
}

/// Sources that read topics, by name.
pub fn sources(project: &Project) -> impl Iterator<Item = (&str, &SourceDef)> {
    project.definitions.source.iter().filter(|(_, def)| def.connector == Connector::Kafka)
}

/// What is wrong with the schemas that lie in files, each with its source.
pub fn schema_problems(project: &Project) -> Vec<String> {
    let with_file = sources(project).filter(|(_, def)| def.schema.is_some());
    with_file.filter_map(|(name, def)| Some(format!("source `{name}`: {}", Decoder::new(def, None, &project.dir).err()?))).collect()
}

/// How the records of one topic are read.
pub struct Decoder(How);

enum How {
    Plain,
    /// By a schema in a file, the record alone.
    Avro(avro::Schema),
    Protobuf(protobuf::Message),
    /// By the schema whose id goes before the record.
    Framed(TopicFormat, Arc<Registry>),
}

/// What a framed record says of its schema.
pub struct Frame {
    pub known: Arc<Known>,
    message: Option<protobuf::Message>,
    /// The record itself begins at this byte.
    body: usize,
}

/// Why a record's schema is not there.
pub enum Unframed {
    /// It is the record's fault.
    Rejected(Rejection),
    /// It is the registry's: the record must wait. With the schema's id and the reason.
    Down(u32, String),
}

impl Decoder {
    /// `dir`: the project's folder.
    ///
    /// # Errors
    /// A file with a schema that cannot be read, in words.
    pub fn new(def: &SourceDef, registry: Option<&Arc<Registry>>, dir: &Path) -> Result<Decoder, String> {
        let format = def.format.and_then(SourceFormat::topic).unwrap_or_default();
        let how = match (format, &def.schema, registry) {
            (TopicFormat::Json, ..) => How::Plain,
            (_, None, Some(registry)) => How::Framed(format, Arc::clone(registry)),
            (_, None, None) => return Err("its records have a schema, and no schema registry is named in [kafka]".to_owned()),
            (format, Some(file), _) => {
                let of_file = |problem: String| format!("schema {file}: {problem}");
                let path = dir.join(file);
                match format {
                    TopicFormat::Protobuf => {
                        let schema = protobuf::Schema::open(&path).map_err(of_file)?;
                        How::Protobuf(schema.message(def.message.as_deref().unwrap_or_default()).map_err(of_file)?)
                    }
                    _ => {
                        let text = std::fs::read_to_string(&path).map_err(|e| of_file(e.to_string()))?;
                        How::Avro(avro::Schema::parse(&text, &[]).map_err(of_file)?)
                    }
                }
            }
        };
        Ok(Decoder(how))
    }

    /// The fields of the schema in a file; none where records bring theirs.
    pub fn shape(&self, is_enveloped: bool) -> Option<Shape> {
        match &self.0 {
            How::Plain | How::Framed(..) => None,
            How::Avro(schema) => Some(schema.shape(is_enveloped)),
            How::Protobuf(message) => Some(message.shape(is_enveloped)),
        }
    }

    /// Records bring the id of their schema.
    pub fn is_framed(&self) -> bool {
        matches!(self.0, How::Framed(..))
    }

    /// What a record says of its schema; none: it is not framed, and need not be. `payload`: none of a record without a value.
    ///
    /// # Errors
    /// A record that should be framed and is not, or names a schema that there is not; a registry that does not answer.
    pub fn frame(&self, payload: Option<&[u8]>) -> Result<Option<Frame>, Unframed> {
        let (How::Framed(format, registry), Some(payload)) = (&self.0, payload) else { return Ok(None) };
        let rejected = |fault: Fault| Unframed::Rejected(fault.of(payload));
        let id = schema_id(payload).map_err(rejected)?;
        let known = registry.schema(id).map_err(|missing| match missing {
            Missing::Down(reason) => Unframed::Down(id, reason),
            Missing::Unknown(reason) => rejected(Fault {
                code: "unknown_schema",
                message: format!("the schema registry has no schema {id}: {reason}"),
                hint: "was it written with another registry, or is it no framed record?",
            }),
        })?;
        let (message, body) = match readable(&known, *format).map_err(rejected)? {
            Schema::Avro(_) | Schema::Json(_) => (None, HEAD),
            Schema::Protobuf(schema) => {
                let (message, length) = message_of(schema, id, &payload[HEAD..]).map_err(rejected)?;
                (Some(message), HEAD + length)
            }
        };
        Ok(Some(Frame { known, message, body }))
    }

    /// Reads a record; none: it tells of no row. `payload`: none of a record without a value, which is another thing than an empty message.
    /// `frame`: what [`Decoder::frame`] said of it.
    ///
    /// # Errors
    /// What is wrong with it, with what it was: its bytes, or the text they came to.
    pub fn decode(
        &self,
        payload: Option<&[u8]>,
        frame: Option<&Frame>,
        format: &RowFormat,
        arrived: EventTime,
    ) -> Result<Option<Decoded>, Rejection> {
        let read = |text: &[u8]| decode_message(text, format, arrived, &Limits::default());
        let Some(payload) = payload else { return read(b"") };
        let place = match format.operation {
            OperationOf::Debezium => Place::Envelope(&format.schema),
            _ => Place::Row(&format.schema),
        };
        let body = &payload[frame.map_or(0, |frame| frame.body)..];
        let text = match (&self.0, frame.map(|frame| (&frame.known.schema, &frame.message))) {
            (How::Plain, _) | (How::Framed(..), Some((Ok(Schema::Json(_)), _))) => return read(body),
            (How::Avro(schema), _) | (_, Some((Ok(Schema::Avro(schema)), _))) => schema.decode(body, place),
            (How::Protobuf(message), _) | (_, Some((_, Some(message)))) => message.decode(body, place),
            (How::Framed(..), _) => Err("its schema is not known".to_owned()),
        };
        let text = text.map_err(|problem| {
            let rejection = Rejection::of_bytes("undecodable", format!("the bytes are no record of their schema: {problem}"), payload);
            rejection.hint(match (frame, payload) {
                (None, [0, _, _, _, _, ..]) => "it may be framed: leave `schema` out and name the schema registry in [kafka]",
                _ => "was it written with this very schema?",
            })
        })?;
        read(&text)
    }
}

impl Frame {
    /// What the fields of the record's schema are.
    pub fn shape(&self, is_enveloped: bool) -> Shape {
        match (&self.message, &self.known.schema) {
            (Some(message), _) => message.shape(is_enveloped),
            (None, Ok(Schema::Avro(schema))) => schema.shape(is_enveloped),
            // A text that is no schema tells of no field; records are not read by it.
            (None, Ok(Schema::Json(text))) => json_schema::shape(text, is_enveloped).unwrap_or_default(),
            // Such a schema frames no record.
            (None, Ok(Schema::Protobuf(_)) | Err(_)) => Shape::default(),
        }
    }
}

/// What is wrong with a frame.
struct Fault {
    code: &'static str,
    message: String,
    hint: &'static str,
}

impl Fault {
    fn of(self, payload: &[u8]) -> Rejection {
        Rejection::of_bytes(self.code, self.message, payload).hint(self.hint)
    }
}

/// Bytes before what a schema's own format begins with: 0, and the id.
const HEAD: usize = 5;

fn schema_id(payload: &[u8]) -> Result<u32, Fault> {
    match payload {
        [0, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(Fault {
            code: "not_framed",
            message: "the record does not begin with the byte 0 and the id of a schema".to_owned(),
            hint: match payload.trim_ascii_start().first() {
                Some(b'{') => "it looks like plain JSON: leave `format` out, or let it be written by a serializer of the schema registry",
                _ => "let it be written by a serializer of the schema registry, or name the file of its schema as `schema`",
            },
        }),
    }
}

/// A schema by which records of that format can be read.
fn readable(known: &Known, format: TopicFormat) -> Result<&Schema, Fault> {
    match &known.schema {
        Ok(schema) if known.format == format => Ok(schema),
        Ok(_) => Err(Fault {
            code: "wrong_format",
            message: format!("schema {} is one of {}, and the source's format is {}", known.id, known.format.word(), format.word()),
            hint: "the source's `format` must be that of its topic",
        }),
        Err(problem) => Err(Fault {
            code: "bad_schema",
            message: format!("schema {} cannot be read: {problem}", known.id),
            hint: "it is the registry's text of it that Kilter does not understand",
        }),
    }
}

/// Which message of a schema follows, and how many bytes that took to say.
fn message_of(schema: &protobuf::Schema, id: u32, bytes: &[u8]) -> Result<(protobuf::Message, usize), Fault> {
    let (path, length) = message_path(bytes).ok_or_else(|| Fault {
        code: "not_framed",
        message: "after the schema's id there is no list of message indexes".to_owned(),
        hint: "let it be written by a Protobuf serializer of the schema registry",
    })?;
    let message = schema.message_at(&path).ok_or_else(|| Fault {
        code: "unknown_schema",
        message: format!("schema {id} has no message at {path:?}"),
        hint: "the record names another message than its schema has",
    })?;
    Ok((message, length))
}

/// The positions that say which message of a schema follows, and how many bytes they took. The first message of all is written as nothing at all.
fn message_path(bytes: &[u8]) -> Option<(Vec<usize>, usize)> {
    let mut at = 0;
    let mut number = || {
        let mut n = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = *bytes.get(at)?;
            at += 1;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from((n >> 1) as i64 ^ -((n & 1) as i64)).ok();
            }
        }
        None
    };
    let count = number()?;
    if count == 0 {
        return Some((vec![0], at));
    }
    // Each takes at least a byte.
    if count > bytes.len() {
        return None;
    }
    let path = (0..count).map(|_| number()).collect::<Option<Vec<usize>>>()?;
    Some((path, at))
}
