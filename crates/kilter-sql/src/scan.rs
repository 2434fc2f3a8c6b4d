//! How a query reads a table: what it asks for is narrowed to ranges, rows come in batches from a thread that may wait, and stop when nobody takes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use crate::error::SqlError;
use crate::tables::Table;

/// Takes a batch; `Break`: no more is wanted.
pub type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> ControlFlow<()>;

/// Batches that wait for whoever reads them.
const WAITING: usize = 2;

/// What a scan is to give.
pub struct Wanted {
    /// Positions of the table's columns.
    pub columns: Vec<usize>,
    pub limit: Option<usize>,
    pub bounds: Bounds,
    /// Whether somebody still waits for rows; asked now and then where many are passed over.
    pub is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Ranges that the rows asked for lie in. They may hold other rows as well: the query checks each again.
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
                (Expr::Column(column), Expr::Literal(value, _)) => self.compare(&column.name, *op, value),
                (Expr::Literal(value, _), Expr::Column(column)) => op.swap().is_some_and(|op| self.compare(&column.name, op, value)),
                _ => false,
            },
            Expr::Between(between) if !between.negated => match (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref()) {
                (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) => {
                    let low = self.compare(&column.name, Operator::GtEq, low);
                    self.compare(&column.name, Operator::LtEq, high) || low
                }
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
        let Some(numbers) = values.iter().map(|value| number(value)).collect::<Option<BTreeSet<i64>>>() else { return false };
        let (Some(low), Some(high)) = (numbers.first().copied(), numbers.last().copied()) else { return false };
        self.narrow(column, low, high);
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
        let Some(x) = number(value) else { return false };
        match op {
            Operator::Eq => self.narrow(column, x, x),
            Operator::Gt | Operator::GtEq => self.narrow(column, x, i64::MAX),
            Operator::Lt | Operator::LtEq => self.narrow(column, i64::MIN, x),
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

fn text(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.clone(),
        _ => None,
    }
}

fn number(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int64(x) | ScalarValue::TimestampMicrosecond(x, _) => *x,
        _ => None,
    }
}

/// Records of one stretch of a log.
pub const STRETCH: u64 = 4096;

/// Between which times the records of a log's stretches lie, as far as a scan has been over them. Records never change, so what was seen once holds.
#[derive(Default)]
pub struct Stretches(Mutex<HashMap<u64, (i64, i64)>>);

impl Stretches {
    /// The stretches of a log that reaches from `start` to `end`, newest first, without those known to lie outside of `times`.
    pub fn of(&self, start: u64, end: u64, times: &RangeInclusive<i64>) -> Vec<(u64, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let mut high = end;
        while high > start {
            let number = (high - 1) / STRETCH;
            let low = (number * STRETCH).max(start);
            let outside = known.get(&number).is_some_and(|(first, last)| last < times.start() || first > times.end());
            if !outside {
                found.push((low, high));
            }
            high = low;
        }
        found
    }

    /// All records of a stretch were seen, and these are the times of the first and the last.
    pub fn remember(&self, low: u64, high: u64, times: Option<(i64, i64)>) {
        if low % STRETCH == 0 && high == low + STRETCH {
            // A stretch without a time has no row at any.
            let times = times.unwrap_or((i64::MAX, i64::MIN));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(low / STRETCH, times);
        }
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

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let narrows = |filter: &&Expr| {
            let of_ours = filter.column_refs().iter().all(|column| self.0.narrows(&column.name));
            match of_ours && Bounds::default().take(filter) {
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            }
        };
        Ok(filters.iter().map(narrows).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.0.schema();
        let columns = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let schema = Arc::new(schema.project(&columns)?);
        let scan = Scan { table: Arc::clone(&self.0), schema: Arc::clone(&schema), columns, bounds: Bounds::of(filters), limit };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, [], false, limit)?))
    }
}

/// A scan that has been planned.
struct Scan {
    table: Arc<dyn Table>,
    schema: SchemaRef,
    columns: Vec<usize>,
    bounds: Bounds,
    limit: Option<usize>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), WAITING);
        let (table, tx) = (Arc::clone(&self.table), stream.tx());
        let open = tx.clone();
        let wanted = Wanted {
            columns: self.columns.clone(),
            limit: self.limit,
            bounds: self.bounds.clone(),
            is_wanted: Box::new(move || !open.is_closed()),
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
        stream.build()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn bounds(filter: Expr) -> Bounds {
        Bounds::of(&[filter])
    }

    #[test]
    fn conditions_narrow_to_ranges() {
        let found = bounds(col("n").gt_eq(lit(3i64)).and(lit(9i64).gt(col("n"))).and(col("who").eq(lit("a"))));
        assert_eq!(found.range("n"), 3..=9);
        assert_eq!(found.texts("who"), Some(&BTreeSet::from(["a".to_owned()])));
        assert_eq!(found.range("other"), i64::MIN..=i64::MAX);
        let found = bounds(col("who").in_list(vec![lit("a"), lit("b")], false).and(col("who").eq(lit("b"))));
        assert_eq!(found.texts("who"), Some(&BTreeSet::from(["b".to_owned()])));
    }

    #[test]
    fn lists_of_values_narrow_to_these() {
        let found =
            bounds(col("n").in_list(vec![lit(7i64), lit(3i64), lit(5i64)], false).and(col("n").lt(lit(7i64))).and(col("n").gt(lit(3i64))));
        assert_eq!(found.numbers("n"), Some(BTreeSet::from([3, 5, 7])));
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
    fn a_stretch_is_passed_over_once_it_is_known() {
        let stretches = Stretches::default();
        let all = stretches.of(10, 2 * STRETCH + 5, &(0..=10));
        assert_eq!(all, [(2 * STRETCH, 2 * STRETCH + 5), (STRETCH, 2 * STRETCH), (10, STRETCH)]);
        stretches.remember(STRETCH, 2 * STRETCH, Some((20, 30)));
        // Not the whole of its stretch.
        stretches.remember(10, STRETCH, Some((20, 30)));
        assert_eq!(stretches.of(10, 2 * STRETCH, &(0..=10)), [(10, STRETCH)]);
        assert_eq!(stretches.of(10, 2 * STRETCH, &(30..=40)).len(), 2);
    }
}
