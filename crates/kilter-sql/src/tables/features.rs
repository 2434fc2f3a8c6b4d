//! Features: of every entity that a view knows something of, as they are now and as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType as ArrowType, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use kilter_core::{EntityKey, EventTime, Value};
use kilter_runtime::Service;
use kilter_runtime::as_seen::Seen;
use kilter_runtime::entities::EntityRow;

use super::events::{cell, kind};
use super::{Cell, Column, Kind, Listed, Placed, Table};
use crate::error::{BAD_STATEMENT, SqlError, UNDEFINED_COLUMN, UNDEFINED_OBJECT};
use crate::rights::Veil;
use crate::scan::{Bounds, Emit, Provider, Wanted};

/// Keys that conditions may name, before all entities are looked at instead.
const MOST_KEYS: usize = 10_000;

/// A table for each view: all its entities as they are now.
pub fn tables(service: &Arc<Service>) -> Vec<Placed> {
    let one = |view: usize| {
        let plan = &service.plan.views[view];
        let reader = Arc::clone(service);
        let rows = move |wanted: &Wanted, row: &mut dyn FnMut(EntityRow) -> ControlFlow<()>| {
            match keys(&reader, view, &wanted.bounds) {
                Some(keys) => reader.each_entity_of(view, &keys, row)?,
                None => reader.each_entity(view, row)?,
            }
            Ok(())
        };
        let comment = format!("Features of {} now: of every entity that view {} knows something of", plan.entity().join(", "), plan.name());
        let table = Listed::new(comment, columns(service, view), Vec::new(), Box::new(rows));
        Placed { schema: "features", name: plan.name().to_owned(), table: Arc::new(Keyed { table, keys: plan.entity().to_vec() }) }
    };
    (0..service.plan.views.len()).map(one).collect()
}

/// A table whose entities can be named by conditions on these columns.
struct Keyed {
    table: Arc<dyn Table>,
    keys: Vec<String>,
}

impl Table for Keyed {
    fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    fn narrows(&self, column: &str) -> bool {
        self.keys.iter().any(|key| key == column)
    }

    fn scan(&self, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<()> {
        self.table.scan(wanted, emit)
    }
}

fn columns(service: &Service, view: usize) -> Vec<Column<EntityRow>> {
    let view = &service.plan.views[view];
    let schema = &service.plan.sources[usize::from(view.source().0)].schema;
    let mut columns: Vec<Column<EntityRow>> = Vec::new();
    for (i, name) in view.entity().iter().enumerate() {
        let kind = schema.index(name).map_or(Kind::Text, |column| kind(schema.fields[column].data_type));
        columns.push(Column::new(name, kind, "Whom the features are of", move |row: &EntityRow| key_cell(&row.key, i)));
    }
    let features = view.features().iter().enumerate().map(|(i, feature)| {
        let comment = if feature.over.is_empty() { feature.text.clone() } else { format!("{} (over {})", feature.text, feature.over) };
        Column::new(&feature.name, kind(feature.data_type), comment, move |row: &EntityRow| row.look.values.get(i).map_or(Cell::Null, cell))
    });
    columns.extend(features);
    let own = vec![
        Column::new("_last_event", Kind::Time, "When the newest event happened that the view took in of it", |row: &EntityRow| {
            Cell::of(row.look.last_event, |t| Cell::Time(t.0))
        }),
        Column::new("_as_of", Kind::Time, "The moment at which windows end", |row: &EntityRow| Cell::Time(row.at.0)),
        Column::new("_as_of_offset", Kind::Int, "What came in before this offset is in the features", |row: &EntityRow| {
            Cell::Int(row.as_of_offset as i64)
        }),
    ];
    columns.extend(own);
    // What comes first keeps its name.
    let mut names = BTreeSet::new();
    for column in &mut columns {
        while !names.insert(column.name.clone()) {
            column.name.push('_');
        }
    }
    columns
}

fn key_cell(key: &EntityKey, part: usize) -> Cell<'_> {
    match key {
        EntityKey::Int(x) => Cell::Int(*x),
        EntityKey::Text(x) => Cell::text(x),
        EntityKey::Bool(x) => Cell::Bool(*x),
        EntityKey::Composite(keys) => keys.get(part).map_or(Cell::Null, |key| key_cell(key, 0)),
    }
}

/// The entities that conditions name; none: they name no few ones.
fn keys(service: &Service, view: usize, bounds: &Bounds) -> Option<Vec<EntityKey>> {
    let view = &service.plan.views[view];
    let schema = &service.plan.sources[usize::from(view.source().0)].schema;
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for name in view.entity() {
        let values: Vec<Value> = match kind(schema.fields[schema.index(name)?].data_type) {
            Kind::Int => bounds.numbers(name)?.into_iter().map(Value::Int).collect(),
            Kind::Text => bounds.texts(name)?.iter().map(|text| Value::text(text)).collect(),
            Kind::Bool | Kind::Float | Kind::Time => return None,
        };
        if rows.len() * values.len() > MOST_KEYS {
            return None;
        }
        rows = rows.iter().flat_map(|row| values.iter().map(|value| [row.as_slice(), std::slice::from_ref(value)].concat())).collect();
    }
    let places: Vec<usize> = (0..view.entity().len()).collect();
    rows.iter().map(|row| EntityKey::from_row(row, &places)).collect()
}

/// `features_at('view', MOMENT)`: what a read of all entities of a view would have answered then, and `features_at('view', 'key', MOMENT)`: of one entity. A
/// moment is a time, or the offset of the first event that is not in it.
pub struct At {
    pub service: Arc<Service>,
    /// The views that it tells of, and what of each; none: all, and everything.
    pub views: Option<BTreeMap<String, Veil>>,
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("features_at")
    }
}

impl TableFunctionImpl for At {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (view, key, moment) = match args.exprs() {
            [view, moment] => (view, None, moment),
            [view, key, moment] => (view, Some(key), moment),
            _ => return Err(refused("features_at wants a view and a moment, or a view, a key and a moment")),
        };
        let Some(name) = text_of(view) else { return Err(refused("the view of features_at is a text, such as 'card'")) };
        let service = &self.service;
        let veil = self.views.as_ref().map(|views| views.get(&name));
        let known = service.plan.view(&name).filter(|_| !matches!(veil, Some(None)));
        let Some(view) = known else {
            // What is not shown is not there.
            let names: Vec<&str> = match &self.views {
                Some(views) => views.keys().map(String::as_str).collect(),
                None => service.plan.views.iter().map(|view| view.name()).collect(),
            };
            let message = format!("there is no feature view `{name}`");
            return Err(failed(SqlError::new(UNDEFINED_OBJECT, message).hint(format!("there are: {}", kilter_core::list(names)))));
        };
        let veil = veil.flatten().cloned();
        let hides_keys = |veil: &Veil| service.plan.views[view].entity().iter().any(|column| !veil.shows(column));
        if key.is_some() && veil.as_ref().is_some_and(hides_keys) {
            // Who may not see keys may not ask by them either, nor learn what they are called.
            let error = SqlError::new(UNDEFINED_COLUMN, format!("the keys of `{name}` cannot be seen, so it cannot be asked by key"));
            return Err(failed(error.hint("features_at('VIEW', MOMENT) tells of all entities")));
        }
        let key = match key {
            Some(key) => {
                let text = text_of(key).ok_or_else(|| refused("the key of features_at is a text or a number"))?;
                Some(service.parse_key(view, &text).map_err(|e| refused(e.to_string()))?)
            }
            None => None,
        };
        let schema = behind(&veil, table(service, view, &None, Seen::Before(0))).schema().clone();
        Ok(Arc::new(Past { service: Arc::clone(service), view, key, veil, moment: moment.clone(), schema }))
    }
}

fn refused(message: impl Into<String>) -> DataFusionError {
    failed(
        SqlError::new(BAD_STATEMENT, message)
            .hint("features_at('VIEW', TIMESTAMP '2026-01-31 12:00:00'), features_at('VIEW', 'KEY', now() - interval '1 day')"),
    )
}

fn failed(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

fn text_of(expr: &Expr) -> Option<String> {
    let Expr::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.clone(),
        ScalarValue::Int64(x) => x.map(|x| x.to_string()),
        ScalarValue::Boolean(x) => x.map(|x| x.to_string()),
        _ => None,
    }
}

/// A view as it was. The moment is looked at when the statement runs: it may be told from `now()`.
struct Past {
    service: Arc<Service>,
    view: usize,
    key: Option<EntityKey>,
    /// What of it may be seen; none: everything.
    veil: Option<Veil>,
    moment: Expr,
    schema: SchemaRef,
}

impl Past {
    fn table(&self, seen: Seen) -> Arc<dyn Table> {
        behind(&self.veil, table(&self.service, self.view, &self.key, seen))
    }
}

fn behind(veil: &Option<Veil>, table: Arc<dyn Table>) -> Arc<dyn Table> {
    match veil {
        Some(veil) => veil.over(table),
        None => table,
    }
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Past").field("view", &self.view).field("moment", &self.moment).finish_non_exhaustive()
    }
}

impl TableProvider for Past {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Provider(self.table(Seen::Before(0))).supports_filters_pushdown(filters)
    }

    // As in `scan.rs`.
    fn scan<'provider, 'session, 'columns, 'filters, 'all>(
        &'provider self,
        session: &'session dyn Session,
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
        let plan = seen(&self.moment, session).and_then(|seen| Provider(self.table(seen)).plan(projection, filters, limit));
        Box::pin(ready(plan))
    }
}

fn seen(moment: &Expr, session: &dyn Session) -> Result<Seen> {
    let context = SimplifyContext::builder()
        .with_config_options(Arc::clone(session.config().options()))
        .with_query_execution_start_time(session.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let moment = simplifier.coerce(moment.clone(), &DFSchema::empty()).and_then(|e| simplifier.simplify(e))?;
    let Expr::Literal(value, _) = moment else {
        return Err(refused("the moment of features_at is a time or an offset, and cannot be a parameter or depend on rows"));
    };
    if let ScalarValue::Int64(Some(offset)) = value {
        return Ok(Seen::Before(u64::try_from(offset).unwrap_or(0)));
    }
    let time = ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    match value.cast_to(&time) {
        Ok(ScalarValue::TimestampMicrosecond(Some(time), _)) => Ok(Seen::Arrived(EventTime(time))),
        _ => Err(refused(format!("`{value}` is no moment"))),
    }
}

/// All entities of a view as they were, or the one of a key.
fn table(service: &Arc<Service>, view: usize, key: &Option<EntityKey>, seen: Seen) -> Arc<dyn Table> {
    let (reader, key) = (Arc::clone(service), key.clone());
    let rows = move |wanted: &Wanted, row: &mut dyn FnMut(EntityRow) -> ControlFlow<()>| {
        let mut keys = keys(&reader, view, &wanted.bounds);
        if let Some(key) = &key {
            keys = Some(keys.map_or_else(|| vec![key.clone()], |keys| keys.into_iter().filter(|other| other == key).collect()));
        }
        reader.each_as_seen(view, keys, seen, &|| (wanted.is_wanted)(), row)?;
        Ok(())
    };
    let plan = &service.plan.views[view];
    let comment = format!("Features of {} as they were", plan.entity().join(", "));
    Arc::new(Keyed { table: Listed::new(comment, columns(service, view), Vec::new(), Box::new(rows)), keys: plan.entity().to_vec() })
}
