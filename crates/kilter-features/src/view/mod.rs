//! Feature views: their definition, and the plan compiled from it.

mod line;
mod plan;

use std::fmt;
use std::sync::Arc;

use kilter_core::{DataType, Problem, Schema, SourceId, Span, Value};

pub use crate::aggregators::Equality;
pub(crate) use plan::{LevelPlan, Output, Place, Plan, Shared};

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
}

/// Which part of a view's definition a problem concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The entity column of this name.
    Entity(String),
    Filter,
    /// The feature column of this name.
    Column(String),
    Hop,
}

/// One feature of a view: one column over one window.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureInfo {
    /// `turnover_7d`, or the column's plain name for a lifetime feature.
    pub name: String,
    pub data_type: DataType,
    /// None: lifetime.
    pub window: Option<Span>,
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

    /// In the order of the columns, and within one of its windows as written.
    pub fn features(&self) -> &[FeatureInfo] {
        &self.plan.features
    }

    /// The condition that an event must meet to count in the view, as written.
    pub fn filter(&self) -> Option<&str> {
        self.plan.filter.as_ref().map(|f| f.text())
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
