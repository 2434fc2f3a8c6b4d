//! Comparisons and orders as SQL. Values are bound, never written into the text.

use crate::db::{Db, Dialect, Row, Sql, bind};
use crate::error::Result;
use crate::grammar::{Comparison, Kind, Op, Order, Value};
use crate::model::{View, Visible};

/// The tag by which a registered model is a prompt.
pub(super) use crate::webhook::PROMPT;
/// Rows whose belongings are read at once.
pub(super) const CHUNK: usize = 1000;
/// Whole numbers below it are the same as a float.
const EXACT: f64 = (1_u64 << 53) as f64;

/// `1,2,3`: numbers of ours, so that they may stand in the text.
pub(super) fn listed(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// Of none it is NULL, in which nothing is: PostgreSQL takes no empty list.
pub(super) fn in_list(ids: &str) -> String {
    format!("({})", if ids.is_empty() { "NULL" } else { ids })
}

/// Shows each row of a statement that asks for some numbers, between its two parts. Of one alone it comes again, and is kept prepared.
pub(super) fn each_of(db: &mut Db, before: &str, ids: &[i64], after: &str, see: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
    match ids {
        [id] => db.each(&format!("{before} IN (?1){after}"), bind![id], see),
        _ => Sql::new(format!("{before} IN {}{after}", in_list(&listed(ids)))).each(db, see),
    }
}

/// A join with `ON` behind it that SQLite does in the order it is written in. PostgreSQL chooses for itself.
pub(super) fn join_in_order(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => " CROSS JOIN ",
        Dialect::Postgres => " JOIN ",
    }
}

/// What of a query decides which rows its pages count.
pub(super) fn of_key(visible: &Option<Visible>) -> String {
    visible.as_ref().map(|visible| format!("{visible:?}")).unwrap_or_default()
}

/// Only what may be found.
pub(super) fn and_visible(sql: &mut Sql, visible: &Option<Visible>, id: &str, name: &str) {
    let Some(Visible { ids, names, others }) = visible else { return };
    let word = |is_visible: bool| if is_visible { "TRUE" } else { "FALSE" };
    if ids.is_empty() && names.is_empty() {
        sql.push(" AND ").push(word(*others));
        return;
    }
    sql.push(" AND CASE");
    for (number, is_visible) in ids {
        sql.push(format!(" WHEN {id} = {number} THEN {}", word(*is_visible)));
    }
    for (known, is_visible) in names {
        sql.push(format!(" WHEN {name} = ")).bind(known.clone()).push(format!(" THEN {}", word(*is_visible)));
    }
    sql.push(format!(" ELSE {0} END", word(*others)));
}

pub(super) fn of_view(sql: &mut Sql, column: &str, view: View) {
    match view {
        View::All => sql.push("TRUE"),
        View::Active => sql.push(column).push(" = 'active'"),
        View::Deleted => sql.push(column).push(" = 'deleted'"),
    };
}

pub(super) fn of_experiment(sql: &mut Sql, comparison: Comparison) {
    match comparison.kind {
        Kind::Tag => {
            let missing = comparison.op == Op::IsNull;
            sql.push(if missing { "e.id NOT IN (" } else { "e.id IN (" });
            sql.push("SELECT experiment FROM experiment_tags WHERE key = ").bind(comparison.key);
            and_value(sql, "value", comparison.op, comparison.value);
            sql.push(")");
        }
        _ => compare(sql, experiment_column(&comparison.key), comparison.op, comparison.value),
    }
}

pub(super) fn order_experiments(sql: &mut Sql, order: &Order) {
    // As a number: 10 comes after 9.
    let column = if order.key == "experiment_id" { "e.id" } else { experiment_column(&order.key) };
    sql.push(column).push(direction(order));
}

fn experiment_column(key: &str) -> &'static str {
    match key {
        "name" => "e.name",
        "experiment_id" => "CAST(e.id AS TEXT)",
        "creation_time" => "e.created",
        _ => "e.updated",
    }
}

/// `one_by_one`: by a look at what the run logged, instead of by the set of all runs that logged such a thing.
pub(super) fn of_run(sql: &mut Sql, comparison: Comparison, one_by_one: bool) {
    let Comparison { kind, op, .. } = comparison;
    match kind {
        Kind::Attribute => compare(sql, run_column(&comparison.key), op, comparison.value),
        Kind::Metric | Kind::Param | Kind::Tag => {
            sql.push(match (one_by_one, op) {
                (true, Op::IsNull) => "NOT EXISTS (",
                (true, _) => "EXISTS (",
                (false, Op::IsNull) => "r.id NOT IN (",
                (false, _) => "r.id IN (",
            });
            push_set(sql, comparison);
            sql.push(if one_by_one { " AND run = r.id)" } else { ")" });
        }
        Kind::Dataset if comparison.key == "context" => {
            sql.push("r.id IN (SELECT run FROM input_tags WHERE key = 'mlflow.data.context'");
            and_value(sql, "value", op, comparison.value);
            sql.push(")");
        }
        // What else there is, this search does not know.
        _ => {
            sql.push("r.id IN (SELECT i.run FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE TRUE");
            and_value(sql, if comparison.key == "name" { "d.name" } else { "d.digest" }, op, comparison.value);
            sql.push(")");
        }
    }
}

/// The runs that logged what a comparison asks for, of whatever experiment; none where it asks for something else.
pub(super) fn set(comparison: &Comparison) -> Option<Sql> {
    if !matches!(comparison.kind, Kind::Metric | Kind::Param | Kind::Tag) || comparison.op == Op::IsNull {
        return None;
    }
    let mut sql = Sql::new("");
    push_set(&mut sql, comparison.clone());
    Some(sql)
}

fn push_set(sql: &mut Sql, Comparison { kind, key, op, value }: Comparison) {
    sql.push(match kind {
        Kind::Metric => "SELECT run FROM latest_metrics",
        Kind::Param => "SELECT run FROM params",
        _ => "SELECT run FROM tags",
    });
    sql.push(" WHERE key = (SELECT id FROM keys WHERE name = ").bind(key).push(")");
    if kind == Kind::Metric {
        // What is not a number differs from every number, and is otherwise in no relation to any.
        sql.push(if op == Op::Ne { " AND (is_nan = 1 OR (" } else { " AND (is_nan = 0 AND (" });
        compare(sql, "value", op, value);
        sql.push("))");
    } else {
        and_value(sql, "value", op, value);
    }
}

/// The tables that an order needs beside the runs.
pub(super) fn join_order(sql: &mut Sql, at: usize, order: &Order) {
    let table = match order.kind {
        Kind::Metric => "latest_metrics",
        Kind::Param => "params",
        Kind::Tag => "tags",
        _ => return,
    };
    sql.push(format!(" LEFT JOIN {table} o{at} ON o{at}.run = r.id AND o{at}.key = (SELECT id FROM keys WHERE name = "));
    sql.bind(order.key.clone()).push(")");
}

/// What is missing comes last in either direction, and of metrics what is not a number before it.
pub(super) fn order_runs(sql: &mut Sql, at: usize, order: &Order) {
    let to = direction(order);
    match order.kind {
        // Only an end can be missing; an order by what is always there may follow an index.
        Kind::Attribute if order.key == "end_time" => sql.push(format!("r.end_time IS NULL, r.end_time{to}")),
        Kind::Attribute => sql.push(run_column(&order.key)).push(to),
        Kind::Metric => sql.push(format!("CASE WHEN o{at}.run IS NULL THEN 2 ELSE o{at}.is_nan END, o{at}.value{to}")),
        _ => sql.push(format!("o{at}.run IS NULL, o{at}.value{to}")),
    };
}

fn run_column(key: &str) -> &'static str {
    match key {
        "run_id" => "r.run_id",
        "run_name" => "r.name",
        "status" => "r.status",
        "artifact_uri" => "r.artifact_uri",
        "user_id" => "r.user_id",
        "start_time" => "r.start_time",
        _ => "r.end_time",
    }
}

pub(super) fn direction(order: &Order) -> &'static str {
    if order.descending { " DESC" } else { "" }
}

/// The value as a further condition; whether there is one at all is said by the row being there.
pub(super) fn and_value(sql: &mut Sql, column: &str, op: Op, value: Value) {
    if !matches!(op, Op::IsNull | Op::IsNotNull) {
        sql.push(" AND ");
        compare(sql, column, op, value);
    }
}

pub(super) fn compare(sql: &mut Sql, column: &str, op: Op, value: Value) {
    match value {
        Value::Text(pattern) if matches!(op, Op::Like | Op::Ilike) => {
            // Only letters of ASCII are folded, by either database: the column is, as its texts are compared by their bytes.
            let (fold, end, pattern) = if op == Op::Ilike { ("lower(", ")", pattern.to_ascii_lowercase()) } else { ("", "", pattern) };
            // A backslash is a sign like others, which it is not in PostgreSQL unless something else takes its place. U+E000 has a place there already.
            let escape = pattern.contains('\\').then(|| ('\u{e001}'..='\u{f8ff}').find(|sign| !pattern.contains(*sign))).flatten();
            sql.push(fold).push(column).push(end).push(" LIKE ").bind(pattern);
            if let Some(escape) = escape {
                sql.push(format!(" ESCAPE '{escape}'"));
            }
        }
        Value::Text(text) => {
            sql.push(column).push(" ").push(op.as_str()).push(" ").bind(text);
        }
        // PostgreSQL compares a column of whole numbers with another number only if it is told what that is.
        Value::Number(number) => {
            sql.push(column).push(" ").push(op.as_str());
            if number.fract() == 0. && number.abs() < EXACT {
                sql.push(" ").bind(number as i64);
            } else {
                sql.push(" CAST(").bind(number).push(" AS DOUBLE PRECISION)");
            }
        }
        Value::Texts(texts) => {
            sql.push(column).push(" ").push(op.as_str()).push(" (").bind_all(texts).push(")");
        }
        Value::None => {
            sql.push("TRUE");
        }
    }
}

pub(super) fn of_logged_model(sql: &mut Sql, comparison: Comparison, datasets: &[(String, String)]) {
    let Comparison { kind, key, op, value } = comparison;
    match kind {
        Kind::Metric => {
            sql.push("l.id IN (SELECT model FROM logged_model_metrics WHERE key = ").bind(key);
            of_datasets(sql, datasets);
            sql.push(if op == Op::Ne { " AND (is_nan = 1 OR (" } else { " AND (is_nan = 0 AND (" });
            compare(sql, "value", op, value);
            sql.push(")))");
        }
        Kind::Param | Kind::Tag => {
            sql.push(if op == Op::IsNull { "l.id NOT IN (" } else { "l.id IN (" });
            sql.push(if kind == Kind::Param { "SELECT model FROM logged_model_params" } else { "SELECT model FROM logged_model_tags" });
            sql.push(" WHERE key = ").bind(key);
            and_value(sql, "value", op, value);
            sql.push(")");
        }
        _ => compare(sql, logged_column(&key), op, value),
    }
}

/// Has any metric on one of the datasets.
pub(super) fn measured_on(sql: &mut Sql, datasets: &[(String, String)]) {
    sql.push("l.id IN (SELECT model FROM logged_model_metrics WHERE TRUE");
    of_datasets(sql, datasets);
    sql.push(")");
}

fn of_datasets(sql: &mut Sql, datasets: &[(String, String)]) {
    if datasets.is_empty() {
        return;
    }
    sql.push(" AND (FALSE");
    for dataset in datasets {
        sql.push(" OR (TRUE");
        of_dataset(sql, dataset);
        sql.push(")");
    }
    sql.push(")");
}

fn of_dataset(sql: &mut Sql, (name, digest): &(String, String)) {
    for (column, value) in [(" AND dataset_name = ", name), (" AND dataset_digest = ", digest)] {
        if !value.is_empty() {
            sql.push(column).bind(value.clone());
        }
    }
}

pub(super) fn order_by_model_metric(sql: &mut Sql, key: &str, dataset: &(String, String), descending: bool) {
    for (column, to) in [("is_nan", ""), ("value", if descending { " DESC" } else { "" })] {
        // Without a row there is no value at all: that comes last.
        sql.push("COALESCE((SELECT ").push(column).push(" FROM logged_model_metrics WHERE model = l.id AND key = ").bind(key.to_string());
        of_dataset(sql, dataset);
        sql.push(" ORDER BY step DESC, timestamp DESC, value DESC LIMIT 1), 2)").push(to).push(", ");
    }
}

pub(super) fn logged_column(key: &str) -> &'static str {
    match key {
        "name" => "l.name",
        "model_id" => "l.model_id",
        "model_type" => "l.model_type",
        "status" => "l.status",
        "source_run_id" => "l.source_run_id",
        "creation_timestamp" => "l.created",
        _ => "l.updated",
    }
}

/// A tag of a registered model or a version, which `owner` and `table` say.
fn of_tag(sql: &mut Sql, owner: &str, table: &str, comparison: Comparison) {
    let Comparison { key, op, value, .. } = comparison;
    // Clients ask for what is no prompt in this way, and what lacks the tag is none.
    let (op, is_absent) = if key == PROMPT && op == Op::Ne { (Op::Eq, true) } else { (op, op == Op::IsNull) };
    sql.push(if is_absent { "NOT EXISTS (" } else { "EXISTS (" });
    sql.push("SELECT 1 FROM ").push(table).push(" t WHERE ").push(owner).push(" AND t.key = ").bind(key);
    and_value(sql, "t.value", op, value);
    sql.push(")");
}

pub(super) fn of_registered_model(sql: &mut Sql, comparison: Comparison) {
    match comparison.kind {
        Kind::Tag => of_tag(sql, "t.model = m.id", "registered_model_tags", comparison),
        _ => compare(sql, "m.name", comparison.op, comparison.value),
    }
}

pub(super) fn of_version(sql: &mut Sql, comparison: Comparison) {
    match comparison.kind {
        Kind::Tag => of_tag(sql, "t.model = v.model AND t.version = v.version", "model_version_tags", comparison),
        _ => compare(sql, registry_column("v", &comparison.key), comparison.op, comparison.value),
    }
}

pub(super) fn order_registry(sql: &mut Sql, of: &'static str, order: &Order) {
    sql.push(registry_column(of, &order.key)).push(direction(order)).push(", ");
}

/// `of`: `m` for the registered model's own times, `v` for those of a version.
fn registry_column(of: &'static str, key: &str) -> &'static str {
    match (of, key) {
        (_, "name") => "m.name",
        (_, "version_number") => "v.version",
        (_, "run_id") => "v.run_id",
        (_, "source_path") => "v.source",
        ("m", "creation_timestamp") => "m.created",
        ("m", _) => "m.updated",
        (_, "creation_timestamp") => "v.created",
        _ => "v.updated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Source;

    #[test]
    fn a_backslash_in_a_pattern_is_a_sign_like_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Source::File(dir.path().join("some.db")).connect().unwrap();
        let mut finds = |text: &str, op: Op, pattern: &str| {
            let mut sql = Sql::new("SELECT 1 WHERE ");
            compare(&mut sql, &format!("'{text}'"), op, Value::Text(pattern.into()));
            assert_eq!(sql.text().contains("ESCAPE"), pattern.contains('\\'), "{}", sql.text());
            sql.optional::<i64>(&mut db).unwrap().is_some()
        };
        assert!(finds(r"C:\a", Op::Like, r"C:\%") && finds(r"C:\A", Op::Ilike, r"c:\_") && finds("ab", Op::Like, "a_"));
        assert!(!finds("C:%", Op::Like, r"C:\%") && !finds("AB", Op::Like, "a_"));
        assert!(finds("\u{e001}\\_", Op::Like, "\u{e001}\\_"));
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Source::File(dir.path().join("some.db")).connect().unwrap();
        db.script("CREATE TABLE t (whole BIGINT, real DOUBLE PRECISION); INSERT INTO t VALUES (3, 2.5)").unwrap();
        let mut finds = |column: &str, op: Op, number: f64| {
            let mut sql = Sql::new("SELECT 1 FROM t WHERE ");
            compare(&mut sql, column, op, Value::Number(number));
            sql.optional::<i64>(&mut db).unwrap().is_some()
        };
        assert!(finds("whole", Op::Gt, 2.5) && finds("whole", Op::Eq, 3.) && finds("whole", Op::Lt, 1e300));
        assert!(finds("real", Op::Eq, 2.5) && finds("real", Op::Gt, 2.) && !finds("real", Op::Lt, -0.5));
    }
}
