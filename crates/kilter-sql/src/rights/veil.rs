//! What stands between a table and who may see only a part of it.
//!
//! Hidden rows go before anything of the asker's is computed: no filter, aggregate, order or limit of a statement sees them, so that none can tell of them by an error,
//! a count, or how its input is cut into batches. A scan is narrowed by conditions on columns that are shown, whose answers the statement checks again.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray};
use datafusion::arrow::compute::{concat_batches, filter, prep_null_mask_filter};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::sql::sqlparser::ast;
use kilter_runtime::ServiceError;

use super::bad;
use crate::error::{INTERNAL, NOT_NOW, Result, SqlError, TOO_MUCH};
use crate::scan::{Emit, Wanted};
use crate::tables::{BATCH, BATCH_BYTES, Log, Table};

/// What of a table's columns and rows may be seen.
#[derive(Clone, Debug)]
pub struct Veil {
    /// The table, for people.
    name: String,
    /// The columns that are shown, by position.
    columns: Vec<usize>,
    names: Vec<String>,
    /// Which rows are; none: all.
    rows: Option<Arc<Condition>>,
    /// Whether the words on the table and its columns tell of what is not shown, and are left out.
    is_wordless: bool,
}

impl Veil {
    pub fn new(name: String, schema: &SchemaRef, columns: Vec<usize>, rows: Option<Arc<Condition>>, is_wordless: bool) -> Veil {
        let names = columns.iter().map(|column| schema.field(*column).name().clone()).collect();
        Veil { name, columns, names, rows, is_wordless }
    }

    /// Whether it shows a column.
    pub fn shows(&self, column: &str) -> bool {
        self.names.iter().any(|name| name == column)
    }

    /// What is seen of a table with the columns that it was made for.
    pub fn over(&self, table: Arc<dyn Table>) -> Arc<dyn Table> {
        let whole = table.schema();
        if self.rows.is_none() && self.columns.len() == whole.fields().len() && !self.is_wordless {
            return table;
        }
        // It was made for these columns; of others it shows none.
        let mut schema = whole.project(&self.columns).unwrap_or_else(|_| Schema::empty());
        if self.is_wordless {
            let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
            schema = Schema::new(fields.collect::<Vec<_>>());
        }
        let schema = Arc::new(schema);
        // Where rows are hidden nothing is computed from the log at another place than here.
        let log = table.log().filter(|_| self.rows.is_none()).map(|log| log.under(format!("{} of {:?}", log.name, self.names)));
        Arc::new(Veiled { veil: self.clone(), table, schema, log })
    }
}

/// A table behind a veil.
struct Veiled {
    veil: Veil,
    table: Arc<dyn Table>,
    schema: SchemaRef,
    log: Option<Log>,
}

impl Table for Veiled {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn narrows(&self, column: &str) -> bool {
        self.veil.shows(column) && self.table.narrows(column)
    }

    fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    fn scan(&self, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<()> {
        let shown: Vec<usize> = wanted.columns.iter().map(|column| self.veil.columns[*column]).collect();
        match &self.veil.rows {
            None => self.all(&Wanted { columns: shown, ..wanted.clone() }, &wanted.columns, emit),
            Some(rows) => self.some(rows, wanted, shown, emit),
        }
    }
}

impl Veiled {
    /// Hands on all rows, as batches of the columns that stand there in this table.
    fn all(&self, wanted: &Wanted, columns: &[usize], emit: Emit<'_>) -> anyhow::Result<()> {
        let schema = Arc::new(self.schema.project(columns)?);
        let mut failed = None;
        let read = self.table.scan(wanted, &mut |batch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            match RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options) {
                Ok(batch) => emit(batch),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        });
        read.and_then(|()| failed.map_or(Ok(()), |e| Err(e.into()))).map_err(|e| self.untold(&e).into())
    }

    /// Hands on the rows that fulfil a condition.
    fn some(&self, rows: &Condition, wanted: &Wanted, shown: Vec<usize>, emit: Emit<'_>) -> anyhow::Result<()> {
        let left = wanted.limit.unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(());
        }
        let count = shown.len();
        let mut read = shown;
        read.extend(rows.columns.iter().copied().filter(|column| !read[..count].contains(column)).collect::<Vec<_>>());
        let whole = self.table.schema();
        let columns = Arc::new(whole.project(&read)?);
        let test = rows.test(&columns, &self.veil.name)?;
        let mut bounds = wanted.bounds.clone();
        bounds.narrow_by(&test.condition, &|column| self.table.narrows(column));
        let all = Wanted { columns: read, limit: None, bounds, may_count: Arc::new(|_| true), ..wanted.clone() };
        let schema = Arc::new(self.schema.project(&wanted.columns)?);
        let mut gathered = Gathered { schema, held: Vec::new(), rows: 0, bytes: 0, left, emit };
        let mut failed = None;
        let read = self.table.scan(&all, &mut |batch| {
            // Where few rows are shown nobody asks for long otherwise.
            if !(wanted.is_wanted)() {
                return ControlFlow::Break(());
            }
            test.keep(&batch, &gathered.schema, &*wanted.is_wanted).and_then(|kept| gathered.take(&kept)).unwrap_or_else(|e| {
                failed = Some(e);
                ControlFlow::Break(())
            })
        });
        if let Err(e) = read.and_then(|()| failed.map_or(Ok(()), |e| Err(e.into()))) {
            return Err(self.untold(&e).into());
        }
        gathered.end()?;
        Ok(())
    }

    /// What went wrong may name what is hidden: that is for the log.
    fn untold(&self, e: &anyhow::Error) -> SqlError {
        let table = &self.veil.name;
        match e.downcast_ref::<SqlError>() {
            Some(e) if e.code == TOO_MUCH => {
                let error = SqlError::new(TOO_MUCH, format!("{table} would be read too far for one statement"));
                return SqlError { hint: e.hint.clone(), ..error };
            }
            _ => {}
        }
        match e.downcast_ref::<ServiceError>() {
            Some(ServiceError::Conflict(reason)) => {
                tracing::debug!(table, reason, "a table behind a veil was not read");
                SqlError::new(NOT_NOW, format!("{table} cannot be read as it is asked for, or not now"))
                    .hint("ask again in a moment; of the past, for another one")
            }
            _ => {
                tracing::warn!(table, error = %format!("{e:#}"), "a table of which a part is granted could not be read");
                SqlError::new(INTERNAL, format!("{table} cannot be read; the server's log says why"))
            }
        }
    }
}

/// Reads the condition of a grant against the columns of its table, hidden ones too.
///
/// # Errors
/// When it makes no sense, is not true or false, or needs more than the row.
pub fn understood(condition: &ast::Expr, schema: &SchemaRef, state: &SessionState) -> Result<Expr> {
    let columns = DFSchema::try_from(schema.as_ref().clone())?;
    let expr = ast::ExprWithAlias { expr: condition.clone(), alias: None };
    let expr = state.create_logical_expr_from_sql_expr(expr, &columns)?;
    let is_more = |expr: &Expr| {
        matches!(
            expr,
            Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
                | Expr::GroupingSet(_)
                | Expr::Placeholder(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::ScalarVariable(..)
                | Expr::Unnest(_)
        )
    };
    if expr.exists(|expr| Ok(is_more(expr)))? {
        return Err(
            bad("the condition of a grant looks at more than one row").hint("it is made of columns, values and functions of single values")
        );
    }
    if expr.is_volatile() {
        return Err(bad("the condition of a grant has a function that answers something else each time")
            .hint("now() and current_date are possible"));
    }
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(columns.clone())).build());
    let expr = simplifier.coerce(expr, &columns)?;
    match expr.get_type(&columns)? {
        DataType::Boolean => Ok(expr),
        other => {
            Err(bad(format!("the condition of a grant is true or false, and `{condition}` is {other}")).hint("compare it with something"))
        }
    }
}

/// Which rows are shown.
#[derive(Debug)]
pub struct Condition {
    expr: Expr,
    config: Arc<ConfigOptions>,
    /// The columns that it looks at, by position in the table.
    columns: Vec<usize>,
}

impl Condition {
    /// # Errors
    /// When it cannot be computed.
    pub fn new(expr: Expr, table: &dyn Table, state: &SessionState) -> Result<Condition> {
        let schema = table.schema();
        let mut columns = expr
            .column_refs()
            .iter()
            .map(|column| schema.index_of(&column.name))
            .collect::<std::result::Result<Vec<usize>, _>>()
            .map_err(|e| bad(e.to_string()))?;
        columns.sort_unstable();
        let condition = Condition { expr, config: Arc::clone(state.config_options()), columns };
        // Once for nothing: a grant that cannot be computed is known before somebody asks.
        condition.test(schema, "")?;
        Ok(condition)
    }

    /// As it is computed now, over batches of these columns.
    fn test(&self, columns: &SchemaRef, table: &str) -> Result<Test> {
        let schema = Arc::new(DFSchema::try_from(columns.as_ref().clone())?);
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&schema))
            .with_config_options(Arc::clone(&self.config))
            // What now() says.
            .with_current_time()
            .build();
        let condition = ExprSimplifier::new(context).simplify(self.expr.clone())?;
        let mut props = ExecutionProps::new();
        props.mark_start_execution(Arc::clone(&self.config));
        let computed = create_physical_expr(&condition, &schema, &props, &PhysicalPlanningContext::default())?;
        Ok(Test { condition, computed, table: table.to_owned(), told: Cell::new(false) })
    }
}

/// A condition that is computed.
struct Test {
    condition: Expr,
    computed: Arc<dyn PhysicalExpr>,
    table: String,
    /// Whether the log was told that it fails.
    told: Cell<bool>,
}

impl Test {
    /// The rows that fulfil it, of the first columns.
    fn keep(&self, batch: &RecordBatch, schema: &SchemaRef, is_wanted: &dyn Fn() -> bool) -> Result<RecordBatch> {
        let mask = match self.mask(batch) {
            Ok(mask) => mask,
            Err(e) => {
                if !self.told.replace(true) {
                    tracing::warn!(table = self.table, error = %e, "the condition of a grant fails on some rows, which stay hidden");
                }
                let mut shown = vec![false; batch.num_rows()];
                self.find(batch, 0, &mut shown, is_wanted);
                BooleanArray::from(shown)
            }
        };
        let columns = batch.columns().iter().take(schema.fields().len());
        let columns = columns.map(|column| filter(column, &mask)).collect::<std::result::Result<Vec<ArrayRef>, _>>().map_err(failed)?;
        let options = RecordBatchOptions::new().with_row_count(Some(mask.true_count()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(failed)
    }

    /// Looks for the rows that fulfil it among those on which it fails, half by half: what it cannot be computed of is not shown, the others are.
    fn find(&self, batch: &RecordBatch, from: usize, shown: &mut [bool], is_wanted: &dyn Fn() -> bool) {
        match self.mask(batch) {
            Ok(mask) => (0..batch.num_rows()).for_each(|row| shown[from + row] = mask.value(row)),
            Err(_) if batch.num_rows() > 1 && is_wanted() => {
                let half = batch.num_rows() / 2;
                self.find(&batch.slice(0, half), from, shown, is_wanted);
                self.find(&batch.slice(half, batch.num_rows() - half), from + half, shown, is_wanted);
            }
            Err(_) => {}
        }
    }

    /// Null is false.
    fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mask = self.computed.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(mask) = mask.as_boolean_opt() else {
            return Err(SqlError::new(INTERNAL, format!("the condition of a grant is {}", mask.data_type())));
        };
        Ok(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() })
    }
}

fn failed(e: impl std::fmt::Display) -> SqlError {
    SqlError::new(INTERNAL, e.to_string())
}

/// Rows that are shown, on their way into batches of which none tells how many lay between them.
struct Gathered<'a> {
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    left: usize,
    emit: Emit<'a>,
}

impl Gathered<'_> {
    fn take(&mut self, batch: &RecordBatch) -> Result<ControlFlow<()>> {
        let texts: Vec<&StringArray> = batch.columns().iter().filter_map(|column| column.as_string_opt::<i32>()).collect();
        let mut from = 0;
        for row in 0..batch.num_rows() {
            self.rows += 1;
            self.bytes += texts.iter().map(|texts| texts.value_length(row) as usize).sum::<usize>();
            self.left -= 1;
            if self.rows == BATCH || self.bytes >= BATCH_BYTES || self.left == 0 {
                self.held.push(batch.slice(from, row + 1 - from));
                from = row + 1;
                if self.flush()?.is_break() || self.left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        if from < batch.num_rows() {
            self.held.push(batch.slice(from, batch.num_rows() - from));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn flush(&mut self) -> Result<ControlFlow<()>> {
        let batch = concat_batches(&self.schema, &self.held).map_err(failed)?;
        self.held.clear();
        (self.rows, self.bytes) = (0, 0);
        Ok((self.emit)(batch))
    }

    fn end(mut self) -> Result<()> {
        if self.rows > 0 && self.left > 0 {
            // Nobody is asked for more.
            let _ = self.flush()?;
        }
        Ok(())
    }
}
