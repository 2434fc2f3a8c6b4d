//! One event as the engine sees it.

use compact_str::CompactString;

use crate::{EventTime, Value};

/// Position in the event log; dense, from 0.
pub type Offset = u64;

/// A source of the loaded definitions, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// What an event does to the row of its key, in a source that describes a changing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Operation {
    /// The row is as the event says from now on. What events of sources without a key do, too.
    #[default]
    Upsert,
    /// The row is gone. Only the key's columns are sure to be there.
    Delete,
}

/// Where an event stood in the partitioned stream it was read from, such as a Kafka topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub partition: u32,
    /// The record's offset within the partition.
    pub position: u64,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.partition, self.position)
    }
}

/// A typed row of one source with its two times: when it happened and when it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub source: SourceId,
    pub offset: Offset,
    pub time: EventTime,
    pub arrived: EventTime,
    /// The client's identifier, when it gave one: the same id within the horizon is the same event.
    pub id: Option<CompactString>,
    pub operation: Operation,
    /// One value per column of the source's schema.
    pub row: Vec<Value>,
    /// Fields the schema does not name, as a JSON object: kept so that a column declared later finds its history.
    pub extra: Option<Box<str>>,
    /// Where it was read, if that has an order of its own: what came from there before is not taken twice.
    pub origin: Option<Origin>,
}
