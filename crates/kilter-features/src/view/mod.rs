//! Feature views: their definition, and the plan compiled from it.

mod call;
mod line;
mod plan;
mod size;
mod window;

use std::fmt;
use std::sync::Arc;

use kilter_core::{DataType, Problem, Schema, SourceId, Span, Value};

pub use crate::aggregators::Equality;
pub(crate) use plan::{Feed, Group, LevelPlan, Output, Place, Plan, Shared};
pub use size::StateBound;
pub(crate) use window::{Extent, Periods, Tiling};

/// One line under `[features.NAME.columns]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSpec {
    pub name: String,
    /// Such as `sum(amount) where kind = 'card' over 7d, 30d`.
    pub text: String,
    /// Stands in for null.
    pub default: Option<Value>,
}

/// The definition of one view.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewSpec {
    pub name: String,
    pub source: SourceId,
    /// The columns of the source.
    pub schema: Schema,
    /// The columns that name the entity.
    pub entity: Vec<String>,
    /// Events for which this is not true are no part of the view.
    pub filter: Option<String>,
    pub columns: Vec<ColumnSpec>,
    /// Tile length for all windows; none: chosen per window.
    pub hop: Option<Span>,
    /// How far behind the watermark an event may come and still enter a window that has passed it.
    pub lateness: Span,
    /// Features that are expressions over those of the columns and over the derived ones before them.
    pub derived: Vec<ColumnSpec>,
    /// An entity is forgotten this long after its newest event; none: it is kept.
    pub ttl: Option<Span>,
    /// The zone of calendar windows, such as `Europe/Prague`; none: UTC.
    pub time_zone: Option<String>,
    /// The source's primary key: an event replaces the earlier one of the same key. Empty: every event stands for itself.
    pub key: Vec<String>,
    /// Other views whose features expressions may name, as they are when an event comes.
    pub lookups: Vec<LookupSpec>,
}

/// Another view that an event is looked up in.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupSpec {
    pub view: View,
    /// The columns of the event's row that name the other view's entity.
    pub key: Vec<usize>,
}

impl ViewSpec {
    /// A view without columns and with nothing out of the ordinary.
    pub fn new(name: &str, source: SourceId, schema: Schema, entity: &[&str], lateness: Span) -> ViewSpec {
        ViewSpec {
            name: name.into(),
            source,
            schema,
            entity: entity.iter().map(|e| e.to_string()).collect(),
            filter: None,
            columns: Vec::new(),
            hop: None,
            lateness,
            derived: Vec::new(),
            ttl: None,
            time_zone: None,
            key: Vec::new(),
            lookups: Vec::new(),
        }
    }
}

/// Which part of a view's definition a problem concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The entity column of this name.
    Entity(String),
    Filter,
    /// The feature column of this name.
    Column(String),
    /// The derived feature of this name.
    Derived(String),
    Hop,
    Ttl,
    TimeZone,
    Lookups,
}

/// One feature of a view: one column over one window.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureInfo {
    /// `turnover_7d`, or the column's plain name for a lifetime feature.
    pub name: String,
    pub data_type: DataType,
    /// The window as written: `7d`, `session 30m`, `lifetime`; empty for an expression over other features.
    pub over: String,
    /// The length of a window of a fixed length.
    pub window: Option<Span>,
    /// The length of its tiles; a microsecond: exact.
    pub hop: Option<Span>,
    pub aggregate: &'static str,
    pub class: Equality,
    /// Whether the order of arrival can change the value.
    pub order_sensitive: bool,
    /// The column's whole text.
    pub text: String,
    /// How much longer than asked the window can be, relative to its length: hop / window.
    pub relative_tail_error: f64,
    /// Relative error of the aggregate itself: 0 for exact ones.
    pub value_error: f64,
    /// What stands in for null.
    pub default: Option<Value>,
    /// For an expression over other features: what those are.
    pub rests_on: Vec<String>,
}

/// A compiled view. Cheap to clone.
#[derive(Clone)]
pub struct View {
    pub(crate) plan: Arc<Plan>,
}

/// Compiles a view, or says everything that is wrong with it at once.
pub fn compile_view(spec: &ViewSpec) -> Result<View, Vec<(Location, Problem)>> {
    plan::compile(spec).map(|plan| View { plan: Arc::new(plan) })
}

impl View {
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn source(&self) -> SourceId {
        self.plan.source
    }

    /// The columns that name the entity.
    pub fn entity(&self) -> &[String] {
        &self.plan.entity
    }

    /// How long an entity is kept after its newest event; none: for good.
    pub fn ttl(&self) -> Option<Span> {
        self.plan.ttl
    }

    /// The zone of calendar windows, where one was named.
    pub fn time_zone(&self) -> Option<&str> {
        self.plan.time_zone.as_deref()
    }

    /// Whether an event may take the place of an earlier one.
    pub fn changes(&self) -> bool {
        self.plan.key.is_some()
    }

    /// Whether a row may leave one entity for another: it may change, and its name does not say whose it is.
    pub fn rows_move(&self) -> bool {
        self.plan.key.as_ref().is_some_and(|key| !self.plan.entity_slots.iter().all(|slot| key.contains(slot)))
    }

    /// In the order of the columns, and within one of its windows as written.
    pub fn features(&self) -> &[FeatureInfo] {
        &self.plan.features
    }

    /// The condition that an event must meet to count in the view, as written.
    pub fn filter(&self) -> Option<&str> {
        self.plan.filter.as_ref().map(|f| f.text())
    }

    /// The names of the views that this one looks events up in: an engine must hold them too.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.plan.lookups.iter().filter(|l| l.used).map(|l| l.view.as_str())
    }

    /// The position of a feature.
    pub fn feature(&self, name: &str) -> Option<usize> {
        self.plan.features.iter().position(|f| f.name == name)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("name", &self.plan.name).field("features", &self.plan.features.len()).finish()
    }
}
