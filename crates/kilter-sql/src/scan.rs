//! How a query reads a table: what it asks for is narrowed to ranges, rows come in batches from a thread that may wait, and stop when nobody takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::ready;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr_common::physical_expr::snapshot_physical_expr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties};
use futures::future::BoxFuture;

use crate::error::SqlError;
use crate::stretches::Piece;
use crate::tables::{Log, Table};

/// Takes a batch; `Break`: no more is wanted.
pub type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> ControlFlow<()>;

/// Batches that wait for whoever reads them.
const WAITING: usize = 2;

/// What a scan is to give.
#[derive(Clone)]
pub struct Wanted {
    /// Positions of the table's columns.
    pub columns: Vec<usize>,
    pub limit: Option<usize>,
    pub bounds: Bounds,
    /// Records of the log to read, where the table has one.
    pub records: Range<u64>,
    /// Whether rows between these times are still of use, now that others were found.
    pub may_count: Arc<dyn Fn((i64, i64)) -> bool + Send + Sync>,
    /// Whether somebody still waits for rows; asked now and then where many are passed over.
    pub is_wanted: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Ranges that the rows asked for lie in. A table keeps to that of its time exactly; the others may hold other rows as well: the query checks each again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    numbers: BTreeMap<String, (i64, i64)>,
    texts: BTreeMap<String, BTreeSet<String>>,
    lists: BTreeMap<String, BTreeSet<i64>>,
}

impl Bounds {
    fn of(filters: &[Expr]) -> Bounds {
        let mut bounds = Bounds::default();
        for filter in filters {
            bounds.take(filter);
        }
        bounds
    }

    /// Range of a column of whole numbers or times, in microseconds.
    pub fn range(&self, column: &str) -> RangeInclusive<i64> {
        let (low, high) = self.numbers.get(column).copied().unwrap_or((i64::MIN, i64::MAX));
        low..=high
    }

    /// The only texts that a column may have; none: any.
    pub fn texts(&self, column: &str) -> Option<&BTreeSet<String>> {
        self.texts.get(column)
    }

    /// The only whole numbers or times that a column may have; none: any within its range.
    pub fn numbers(&self, column: &str) -> Option<BTreeSet<i64>> {
        let range = self.range(column);
        let one = (range.start() == range.end()).then(|| BTreeSet::from([*range.start()]));
        one.or_else(|| Some(self.lists.get(column)?.iter().copied().filter(|x| range.contains(x)).collect()))
    }

    fn narrow(&mut self, column: &str, low: i64, high: i64) {
        let range = self.numbers.entry(column.to_owned()).or_insert((i64::MIN, i64::MAX));
        *range = (range.0.max(low), range.1.min(high));
    }

    fn only(&mut self, column: &str, texts: BTreeSet<String>) {
        match self.texts.get_mut(column) {
            Some(known) => known.retain(|text| texts.contains(text)),
            None => {
                self.texts.insert(column.to_owned(), texts);
            }
        }
    }

    /// Takes up what a condition that all rows fulfil says of the columns by which a table can pass over rows.
    pub(crate) fn narrow_by(&mut self, condition: &Expr, narrows: &dyn Fn(&str) -> bool) {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                self.narrow_by(left, narrows);
                self.narrow_by(right, narrows);
            }
            part if part.column_refs().iter().all(|column| narrows(&column.name)) => drop(self.take(part)),
            _ => {}
        }
    }

    /// Takes up a condition that all rows fulfil; false: nothing was learned.
    fn take(&mut self, filter: &Expr) -> bool {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                let left = self.take(left);
                self.take(right) || left
            }
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) | Expr::InList(_) => {
                one_of(filter).is_some_and(|(column, values)| self.list(column, &values))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
                (expr, Expr::Literal(value, _)) => column(expr).is_some_and(|column| self.compare(&column.name, *op, value)),
                (Expr::Literal(value, _), expr) => {
                    column(expr).is_some_and(|column| op.swap().is_some_and(|op| self.compare(&column.name, op, value)))
                }
                _ => false,
            },
            Expr::Between(between) if !between.negated => match (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref()) {
                (expr, Expr::Literal(low, _), Expr::Literal(high, _)) => column(expr).is_some_and(|column| {
                    let low = self.compare(&column.name, Operator::GtEq, low);
                    self.compare(&column.name, Operator::LtEq, high) && low
                }),
                _ => false,
            },
            _ => false,
        }
    }

    /// A column has one of these values.
    fn list(&mut self, column: &str, values: &[&ScalarValue]) -> bool {
        if let Some(texts) = values.iter().map(|value| text(value)).collect() {
            self.only(column, texts);
            return true;
        }
        let Some(numbers) = values.iter().map(|value| number(value)).collect::<Option<Vec<(i64, i64)>>>() else { return false };
        let (low, high) = (numbers.iter().map(|x| x.0).min(), numbers.iter().map(|x| x.1).max());
        let (Some(low), Some(high)) = (low, high) else { return false };
        self.narrow(column, low, high);
        let numbers: BTreeSet<i64> = numbers.into_iter().filter(|(floor, ceiling)| floor == ceiling).map(|(x, _)| x).collect();
        match self.lists.get_mut(column) {
            Some(known) => known.retain(|x| numbers.contains(x)),
            None => drop(self.lists.insert(column.to_owned(), numbers)),
        }
        true
    }

    fn compare(&mut self, column: &str, op: Operator, value: &ScalarValue) -> bool {
        if let (Operator::Eq, Some(text)) = (op, text(value)) {
            self.only(column, BTreeSet::from([text]));
            return true;
        }
        let Some((floor, ceiling)) = number(value) else { return false };
        match op {
            Operator::Eq if floor == ceiling => self.narrow(column, floor, floor),
            Operator::Gt => self.narrow(column, floor.saturating_add(1), i64::MAX),
            Operator::GtEq => self.narrow(column, ceiling, i64::MAX),
            Operator::Lt => self.narrow(column, i64::MIN, ceiling.saturating_sub(1)),
            Operator::LtEq => self.narrow(column, i64::MIN, floor),
            _ => return false,
        }
        true
    }
}

/// The values that a list names for a column. The planner writes short lists as `a = 1 OR a = 2`.
fn one_of(filter: &Expr) -> Option<(&str, Vec<&ScalarValue>)> {
    match filter {
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = list.expr.as_ref() else { return None };
            let values = list.list.iter().map(|item| if let Expr::Literal(value, _) = item { Some(value) } else { None });
            Some((&column.name, values.collect::<Option<_>>()?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
                Some((&column.name, vec![value]))
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (column, mut values) = one_of(left)?;
            let (other, more) = one_of(right)?;
            values.extend(more);
            (column == other).then_some((column, values))
        }
        _ => None,
    }
}

/// Whether a condition is nothing but a range of this column.
fn is_range(filter: &Expr, column: &str) -> bool {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => is_range(left, column) && is_range(right, column),
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => false,
        Expr::BinaryExpr(_) | Expr::Between(_) => filter.column_refs().iter().all(|c| c.name == column) && Bounds::default().take(filter),
        _ => false,
    }
}

/// The column that is compared, where it is one, or one of times in another unit.
fn column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Cast(cast) if matches!(cast.field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _)) => match cast.expr.as_ref() {
            Expr::Column(column) => Some(column),
            _ => None,
        },
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.clone(),
        _ => None,
    }
}

/// A number, or a time in microseconds: the whole ones below and above it.
fn number(value: &ScalarValue) -> Option<(i64, i64)> {
    match value {
        ScalarValue::Int64(x) | ScalarValue::TimestampMicrosecond(x, _) => x.map(|x| (x, x)),
        ScalarValue::TimestampNanosecond(x, _) => x.map(|x| (x.div_euclid(1000), x.div_euclid(1000) + i64::from(x.rem_euclid(1000) > 0))),
        _ => None,
    }
}

/// A table as DataFusion knows one.
#[derive(Clone)]
pub struct Provider(pub Arc<dyn Table>);

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(self.0.schema()).finish()
    }
}

impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let time = self.0.log().map(|log| log.time);
        let narrows = |filter: &&Expr| {
            if time.is_some_and(|time| is_range(filter, time)) {
                return TableProviderFilterPushDown::Exact;
            }
            let of_ours = filter.column_refs().iter().all(|column| self.0.narrows(&column.name));
            match of_ours && Bounds::default().take(filter) {
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            }
        };
        Ok(filters.iter().map(narrows).collect())
    }

    // As `async_trait` would write it, which would have the future hold expressions: for the price, see [`crate::sealed`].
    fn scan<'provider, 'session, 'columns, 'filters, 'all>(
        &'provider self,
        _: &'session dyn Session,
        projection: Option<&'columns Vec<usize>>,
        filters: &'filters [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'all, Result<Arc<dyn ExecutionPlan>>>
    where
        'provider: 'all,
        'session: 'all,
        'columns: 'all,
        'filters: 'all,
    {
        Box::pin(ready(self.plan(projection, filters, limit)))
    }
}

impl Provider {
    /// What a statement does to read the table.
    pub fn plan(&self, projection: Option<&Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.0.schema();
        let columns = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let schema = Arc::new(schema.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Arc::new(Scan {
            table: Arc::clone(&self.0),
            schema,
            columns,
            bounds: Bounds::of(filters),
            limit,
            records: 0..u64::MAX,
            later: Vec::new(),
            properties: Arc::new(properties),
        }))
    }
}

/// A scan that has been planned.
#[derive(Clone)]
pub struct Scan {
    pub table: Arc<dyn Table>,
    schema: SchemaRef,
    columns: Vec<usize>,
    pub bounds: Bounds,
    limit: Option<usize>,
    records: Range<u64>,
    /// Conditions that the statement learns while it runs, such as the least of the best rows so far.
    later: Vec<Arc<dyn PhysicalExpr>>,
    properties: Arc<PlanProperties>,
}

impl Scan {
    /// The pieces of its log that may hold rows, newest first.
    pub fn pieces(&self) -> anyhow::Result<Vec<Piece>> {
        self.table.log().map_or(Ok(Vec::new()), |log| log.pieces(&self.bounds, &self.records))
    }

    /// The same of a part of the log, whose rows may be known to lie within the range of time.
    pub fn of(&self, records: Range<u64>, keeps_times: bool) -> Scan {
        // What the statement learns only spares work, and what is kept must be whole.
        let mut scan = Scan { records, later: Vec::new(), ..self.clone() };
        if !keeps_times && let Some(log) = self.table.log() {
            scan.bounds.numbers.remove(log.time);
        }
        scan
    }

    /// Whether all rows of a part of the log are known to lie within the range of time.
    pub fn is_inside(&self, records: &Range<u64>) -> bool {
        let range = |log: &Log| log.stretches.known(records.clone()).is_some_and(|span| span.is_inside(&self.bounds.range(log.time)));
        self.table.log().is_some_and(range)
    }

    /// What tells apart scans of one table, but for their range of time; none: its rows cannot be kept.
    pub fn key(&self) -> Option<String> {
        let log = self.table.log()?;
        let mut bounds = self.bounds.clone();
        bounds.numbers.remove(log.time);
        self.limit.is_none().then(|| format!("{} {:?} {bounds:?}", log.name, self.columns))
    }

    /// Whether rows between two times may still fulfil what the statement has learned.
    fn may_count(later: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef, time: &str, times: (i64, i64)) -> bool {
        later.iter().all(|condition| {
            let keeps = || -> Result<bool> {
                let condition = snapshot_physical_expr(Arc::clone(condition))?;
                let keeps = PruningPredicateBuilder::new()
                    .with_file_schema(Arc::clone(schema))
                    .try_build(condition)?
                    .prune(&Times { time, times })?;
                Ok(keeps.first().copied().unwrap_or(true))
            };
            // What cannot be told rules nothing out.
            keeps().unwrap_or(true)
        })
    }
}

/// What is known of a stretch, for conditions: between which times it lies.
struct Times<'a> {
    time: &'a str,
    times: (i64, i64),
}

impl Times<'_> {
    fn of(&self, column: &Column, time: i64) -> Option<ArrayRef> {
        (column.name == self.time).then(|| Arc::new(TimestampMicrosecondArray::from(vec![time]).with_timezone("UTC")) as ArrayRef)
    }
}

impl PruningStatistics for Times<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, self.times.0)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, self.times.1)
    }

    fn num_containers(&self) -> usize {
        1
    }

    /// A time is never null: what is said of the least of the best rows may say that nulls come first.
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        (column.name == self.time).then(|| Arc::new(UInt64Array::from(vec![0])) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(vec![1])))
    }

    fn contained(&self, _: &Column, _: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it is called, without what tells it from others.
        let name = self.table.log().and_then(|log| log.name.split(' ').next());
        f.debug_struct("Scan").field("log", &name).field("bounds", &self.bounds).field("records", &self.records).finish_non_exhaustive()
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "Scan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        for condition in &self.later {
            if f(condition)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>, _: ReplaceChildrenOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Scan { limit, ..self.clone() }))
    }

    /// Conditions on the time alone that become known while the statement runs let it pass over what cannot count any more.
    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let Some(log) = self.table.log().filter(|_| matches!(phase, FilterPushdownPhase::Post)) else {
            return Ok(FilterPushdownPropagation::all_unsupported(result));
        };
        let of_time = |condition: &Arc<dyn PhysicalExpr>| {
            let columns = collect_columns(condition);
            !columns.is_empty() && columns.iter().all(|column| column.name() == log.time)
        };
        let mut later = self.later.clone();
        later.extend(result.parent_filters.iter().map(|filter| Arc::clone(&filter.filter)).filter(of_time));
        let told = FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; result.parent_filters.len()]);
        Ok(told.with_updated_node(Arc::new(Scan { later, ..self.clone() })))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), WAITING);
        let (table, tx) = (Arc::clone(&self.table), stream.tx());
        let open = tx.clone();
        let (later, schema, time) = (self.later.clone(), Arc::clone(&self.schema), self.table.log().map_or("", |log| log.time));
        let wanted = Wanted {
            columns: self.columns.clone(),
            limit: self.limit,
            bounds: self.bounds.clone(),
            records: self.records.clone(),
            may_count: Arc::new(move |times| Scan::may_count(&later, &schema, time, times)),
            is_wanted: Arc::new(move || !open.is_closed()),
        };
        stream.spawn_blocking(move || {
            let mut emit = |batch| match tx.blocking_send(Ok(batch)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            table.scan(&wanted, &mut emit).map_err(|e| match e.downcast::<SqlError>() {
                Ok(own) => DataFusionError::External(Box::new(own)),
                Err(e) => DataFusionError::External(e.into()),
            })
        });
        Ok(make_cooperative(stream.build()))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit};

    use super::*;

    fn bounds(filter: Expr) -> Bounds {
        Bounds::of(&[filter])
    }

    #[test]
    fn conditions_narrow_to_ranges() {
        let found = bounds(col("n").gt_eq(lit(3i64)).and(lit(9i64).gt(col("n"))).and(col("who").eq(lit("a"))));
        assert_eq!(found.range("n"), 3..=8);
        assert_eq!(found.texts("who"), Some(&BTreeSet::from(["a".to_owned()])));
        assert_eq!(found.range("other"), i64::MIN..=i64::MAX);
        let found = bounds(col("who").in_list(vec![lit("a"), lit("b")], false).and(col("who").eq(lit("b"))));
        assert_eq!(found.texts("who"), Some(&BTreeSet::from(["b".to_owned()])));
    }

    #[test]
    fn lists_of_values_narrow_to_these() {
        let found =
            bounds(col("n").in_list(vec![lit(7i64), lit(3i64), lit(5i64)], false).and(col("n").lt(lit(7i64))).and(col("n").gt(lit(3i64))));
        assert_eq!(found.numbers("n"), Some(BTreeSet::from([5])));
        let found = bounds(col("n").eq(lit(3i64)).or(lit(9i64).eq(col("n"))).and(col("n").lt_eq(lit(5i64))));
        assert_eq!((found.numbers("n"), found.range("n")), (Some(BTreeSet::from([3])), 3..=5));
        assert_eq!(bounds(col("n").eq(lit(3i64))).numbers("n"), Some(BTreeSet::from([3])));
        assert_eq!(bounds(col("n").gt(lit(3i64))).numbers("n"), None);
        let found = bounds(col("who").eq(lit("a")).or(col("who").eq(lit("b"))));
        assert_eq!(found.texts("who"), Some(&BTreeSet::from(["a".to_owned(), "b".to_owned()])));
    }

    #[test]
    fn what_may_hold_outside_of_a_range_narrows_nothing() {
        let either = bounds(col("n").eq(lit(3i64)).or(col("who").eq(lit("a"))));
        assert_eq!(either, Bounds::default());
        assert_eq!(bounds(col("n").not_eq(lit(3i64))), Bounds::default());
        assert_eq!(bounds(col("who").in_list(vec![lit("a")], true)), Bounds::default());
    }

    #[test]
    fn only_ranges_of_the_time_itself_are_kept_to() {
        let moment = |micros: i64, nanos: i64| lit(ScalarValue::TimestampNanosecond(Some(micros * 1000 + nanos), Some("UTC".into())));
        let cast = || cast(col("t"), DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
        for (filter, range) in [
            (cast().gt(moment(5, 0)), 6..=i64::MAX),
            (cast().gt(moment(5, 1)), 6..=i64::MAX),
            (cast().gt_eq(moment(5, 1)), 6..=i64::MAX),
            (cast().lt(moment(5, 1)), i64::MIN..=5),
            (moment(-5, -1).gt_eq(cast()), i64::MIN..=-6),
            (cast().between(moment(1, 0), moment(5, 999)), 1..=5),
        ] {
            assert!(is_range(&filter, "t"), "{filter}");
            assert_eq!(bounds(filter.clone()).range("t"), range, "{filter}");
        }
        for filter in [
            cast().eq(moment(5, 1)),
            cast().gt(moment(5, 0)).and(col("n").eq(lit(1i64))),
            cast().gt(moment(5, 0)).or(cast().lt(moment(1, 0))),
            cast().gt(lit(ScalarValue::TimestampNanosecond(None, Some("UTC".into())))),
            col("t").in_list(vec![lit(1i64), lit(5i64)], false),
        ] {
            assert!(!is_range(&filter, "t"), "{filter}");
        }
    }
}
