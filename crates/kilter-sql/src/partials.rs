//! Aggregates by pieces of a log: what a full piece adds to an answer never changes, so it is computed once and kept.
//!
//! Dashboards ask the same questions again and again, over ranges of time that move. The range is the scan's, the rest of an aggregate's first phase is the same
//! each time: its state over a piece that lies within the range is looked up by what is computed ([`key`]) and merged by DataFusion's second phase as any other.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, ScalarFunctionExpr, expressions};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use crate::scan::Scan;
use crate::stretches::Piece;

/// Groups of one piece above which its state is not kept: it would take more than to compute it anew saves.
const GROUPS: usize = 8192;

/// States of pieces that were computed, by what was computed.
pub struct Partials {
    kept: Mutex<Kept>,
    /// Most bytes of them.
    bytes: usize,
}

#[derive(Default)]
struct Kept {
    questions: HashMap<Arc<str>, Question>,
    bytes: usize,
    clock: u64,
}

#[derive(Default)]
struct Question {
    pieces: HashMap<Range<u64>, RecordBatch>,
    bytes: usize,
    used: u64,
}

impl Partials {
    pub fn new(bytes: usize) -> Partials {
        Partials { kept: Mutex::default(), bytes }
    }

    fn get(&self, key: &Arc<str>, records: &Range<u64>) -> Option<RecordBatch> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock += 1;
        let now = kept.clock;
        let question = kept.questions.get_mut(key)?;
        question.used = now;
        question.pieces.get(records).cloned()
    }

    fn keep(&self, key: &Arc<str>, records: Range<u64>, state: RecordBatch) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock += 1;
        let now = kept.clock;
        let of_key = if kept.questions.contains_key(key) { 0 } else { key.len() + size_of::<Question>() };
        let question = kept.questions.entry(Arc::clone(key)).or_default();
        question.used = now;
        let before = question.bytes;
        question.bytes += of_key + size(&state);
        // Stretches that have become one piece are asked for no more.
        question.pieces.retain(|known, old| {
            let is_within = records.start <= known.start && known.end <= records.end;
            if is_within {
                question.bytes -= size(old);
            }
            !is_within
        });
        question.pieces.insert(records, state);
        let after = question.bytes;
        kept.bytes = kept.bytes + after - before;
        // The question that was asked least lately goes as a whole: one piece of it would help nobody.
        while kept.bytes > self.bytes
            && let Some(oldest) = kept.questions.iter().min_by_key(|(_, question)| question.used).map(|(key, _)| Arc::clone(key))
        {
            kept.bytes -= kept.questions.remove(&oldest).map_or(0, |question| question.bytes);
        }
    }

    /// How many states are kept.
    pub fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).questions.values().map(|question| question.pieces.len()).sum()
    }
}

fn size(state: &RecordBatch) -> usize {
    state.get_array_memory_size() + size_of::<(Range<u64>, RecordBatch)>()
}

impl fmt::Debug for Partials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partials").finish_non_exhaustive()
    }
}

/// Lets aggregates over a log go by pieces. To be the last rule: what it makes is a leaf.
#[derive(Debug)]
pub struct ByPieces(pub Arc<Partials>);

impl PhysicalOptimizerRule for ByPieces {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return Ok(Transformed::no(plan)) };
            Ok(match self.by_pieces(aggregate)? {
                Some(changed) => Transformed::yes(changed),
                None => Transformed::no(plan),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "by_pieces"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl ByPieces {
    fn by_pieces(&self, aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some((key, scan)) = key(aggregate) else { return Ok(None) };
        let pieces = |first: AggregateExec| -> Arc<dyn ExecutionPlan> {
            let properties = PlanProperties::new(
                EquivalenceProperties::new(first.schema()),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            );
            let partials = Arc::clone(&self.0);
            Arc::new(Pieces { first: Arc::new(first), key, scan, partials, properties: Arc::new(properties) })
        };
        match aggregate.mode() {
            AggregateMode::Partial => Ok(Some(pieces(aggregate.clone()))),
            AggregateMode::Single => {
                let first = phase(aggregate, AggregateMode::Partial, Arc::clone(aggregate.input()))?;
                let second = phase(aggregate, AggregateMode::Final, pieces(first))?;
                Ok((second.schema() == aggregate.schema()).then(|| Arc::new(second) as _))
            }
            _ => Ok(None),
        }
    }
}

/// One of the two phases of an aggregate that was planned as one.
fn phase(whole: &AggregateExec, mode: AggregateMode, input: Arc<dyn ExecutionPlan>) -> Result<AggregateExec> {
    let groups = if mode == AggregateMode::Final { whole.group_expr().as_final() } else { whole.group_expr().clone() };
    AggregateExec::try_new(mode, groups, whole.aggr_expr().to_vec(), whole.filter_expr().to_vec(), input, whole.input_schema())
}

/// What tells apart first phases over one log, and the scan below; none: it does not go by pieces.
fn key(aggregate: &AggregateExec) -> Option<(Arc<str>, Scan)> {
    use fmt::Write;

    let is_plain = aggregate.limit_options().is_none()
        && aggregate.aggr_expr().iter().all(|expr| expr.order_bys().is_empty() && expr.expressions().iter().all(is_plain_expr))
        && aggregate.filter_expr().iter().flatten().all(is_plain_expr)
        && aggregate.group_expr().expr().iter().all(|(expr, _)| is_plain_expr(expr));
    if !is_plain {
        return None;
    }
    let mut key = format!("{:?} {:?} {:?}", aggregate.group_expr(), aggregate.aggr_expr(), aggregate.filter_expr());
    let mut below = aggregate.input();
    loop {
        if let Some(scan) = below.downcast_ref::<Scan>() {
            write!(key, " {}", scan.key()?).ok()?;
            return Some((key.into(), scan.clone()));
        }
        if let Some(filter) = below.downcast_ref::<FilterExec>() {
            if filter.fetch().is_some() || !is_plain_expr(filter.predicate()) {
                return None;
            }
            write!(key, " where {:?} {:?}", filter.predicate(), filter.projection()).ok()?;
        } else if let Some(projection) = below.downcast_ref::<ProjectionExec>() {
            if !projection.expr().iter().all(|expr| is_plain_expr(&expr.expr)) {
                return None;
            }
            write!(key, " of {:?}", projection.expr()).ok()?;
        } else if !passes_on(below) {
            return None;
        }
        let [child] = below.children()[..] else { return None };
        below = child;
    }
}

/// Whether an expression always gives the same, and is told apart by its text. Of others, such as the answer of another question, nothing is known.
fn is_plain_expr(expr: &Arc<dyn PhysicalExpr>) -> bool {
    // The text of a long list leaves out its middle, and a quote within a text looks like its end.
    let is_value = expr.downcast_ref::<expressions::Literal>().is_some_and(|literal| {
        let value = literal.value();
        !value.data_type().is_nested() && !value.try_as_str().flatten().is_some_and(|text| text.contains(['"', '\\']))
    });
    let is_known = is_value
        || expr.is::<expressions::Column>()
        || expr.is::<expressions::BinaryExpr>()
        || expr.is::<expressions::CastExpr>()
        || expr.is::<expressions::TryCastExpr>()
        || expr.is::<expressions::NotExpr>()
        || expr.is::<expressions::IsNullExpr>()
        || expr.is::<expressions::IsNotNullExpr>()
        || expr.is::<expressions::NegativeExpr>()
        || expr.is::<expressions::CaseExpr>()
        || expr.is::<expressions::LikeExpr>()
        || expr.is::<expressions::InListExpr>()
        || expr.is::<ScalarFunctionExpr>();
    is_known && !expr.is_volatile_node() && expr.children().into_iter().all(is_plain_expr)
}

/// Whether a part of a plan hands on what it gets.
fn passes_on(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<CooperativeExec>() || plan.downcast_ref::<RepartitionExec>().is_some_and(|repartition| !repartition.preserve_order())
}

/// The same over another scan, in one partition.
fn over(plan: &Arc<dyn ExecutionPlan>, scan: &Scan) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.is::<Scan>() {
        return Ok(Arc::new(scan.clone()));
    }
    let below = plan.children().into_iter().map(|child| over(child, scan)).collect::<Result<Vec<_>>>()?;
    match below.as_slice() {
        [child] if passes_on(plan) => Ok(Arc::clone(child)),
        _ => Arc::clone(plan).replace_children(below, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute)),
    }
}

/// The first phase of an aggregate, piece by piece.
struct Pieces {
    first: Arc<AggregateExec>,
    key: Arc<str>,
    scan: Scan,
    partials: Arc<Partials>,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("first", &self.first).finish_non_exhaustive()
    }
}

impl DisplayAs for Pieces {
    fn fmt_as(&self, how: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces: ")?;
        self.first.fmt_as(how, f)
    }
}

impl ExecutionPlan for Pieces {
    fn name(&self) -> &'static str {
        "Pieces"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>, _: ReplaceChildrenOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let pieces = self.scan.pieces().map_err(|e| DataFusionError::External(e.into()))?;
        let piece = Arc::new(One {
            first: Arc::clone(&self.first),
            key: Arc::clone(&self.key),
            scan: self.scan.clone(),
            partials: Arc::clone(&self.partials),
            context,
        });
        let states = futures::stream::iter(pieces)
            .then(move |part| Arc::clone(&piece).state(part))
            .map_ok(|states| futures::stream::iter(states.into_iter().map(Ok)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.first.schema(), states.try_flatten())))
    }
}

/// What one piece after the other is computed with.
struct One {
    first: Arc<AggregateExec>,
    key: Arc<str>,
    scan: Scan,
    partials: Arc<Partials>,
    context: Arc<TaskContext>,
}

impl One {
    async fn state(self: Arc<Self>, piece: Piece) -> Result<Vec<RecordBatch>> {
        if piece.is_full
            && piece.is_inside
            && let Some(state) = self.partials.get(&self.key, &piece.records)
        {
            return Ok(vec![state]);
        }
        let first: Arc<dyn ExecutionPlan> = Arc::clone(&self.first) as _;
        let plan = over(&first, &self.scan.of(piece.records.clone(), !piece.is_inside))?;
        let states = collect(plan.execute(0, Arc::clone(&self.context))?).await?;
        let groups: usize = states.iter().map(RecordBatch::num_rows).sum();
        // Now that its records were seen, more may be known.
        if piece.is_full && groups <= GROUPS && (piece.is_inside || self.scan.is_inside(&piece.records)) {
            let state = concat_batches(&self.first.schema(), &states)?;
            self.partials.keep(&self.key, piece.records, state.clone());
            return Ok(vec![state]);
        }
        Ok(states)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn what_was_asked_least_lately_makes_room() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let state = |n: i64| RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![n; 100]))]).unwrap();
        let one = size(&state(0));
        let partials = Partials::new(3 * one + 2 * (1 + size_of::<Question>()));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        partials.keep(&a, 0..1, state(1));
        partials.keep(&a, 1..2, state(2));
        partials.keep(&b, 0..1, state(3));
        // Once more: no more than it was.
        partials.keep(&b, 0..1, state(4));
        assert_eq!(partials.len(), 3);
        assert_eq!(partials.get(&a, &(1..2)), Some(state(2)));
        partials.keep(&a, 2..3, state(5));
        assert_eq!(partials.get(&b, &(0..1)), None);
        assert_eq!(partials.len(), 3);
        // What lies within a larger piece goes when that comes.
        partials.keep(&a, 1..4, state(6));
        assert_eq!(partials.len(), 2);
        assert_eq!(partials.get(&a, &(1..2)), None);
    }
}
