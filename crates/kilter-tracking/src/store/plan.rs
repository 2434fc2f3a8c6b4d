//! How a search of runs goes about it: a page of many runs is found by looking at few of them, along an index or from a comparison that few runs meet.

use super::search::{self, in_list};
use crate::db::{Db, Dialect, Sql};
use crate::error::Result;
use crate::grammar::{Comparison, Kind, Order};
use crate::model::View;

/// So many runs are looked at one and all without a thought.
const FEW: usize = 2000;

/// A search of runs, read and checked.
#[derive(Debug)]
pub(super) struct RunSearch {
    /// `1,2,3`.
    pub experiments: String,
    pub view: View,
    pub filter: Vec<Comparison>,
    pub orders: Vec<Order>,
}

/// All find the same runs in the same order, but for what is said of `Walk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Makes the set of every comparison first.
    Sets,
    /// Looks at runs in their order until there are enough. By a metric that is only those that have a number for it; the others come after them.
    Walk,
    /// Looks at the runs in the set of one comparison.
    Set(usize),
}

impl RunSearch {
    /// The numbers of `limit` runs from a position on, or of as many as there are.
    pub fn find(&self, db: &mut Db, limit: usize, from: i64) -> Result<Vec<i64>> {
        let plan = self.plan(db)?;
        let found = self.follow(db, plan, limit, from)?;
        let all = plan != Plan::Walk || self.metric_first().is_none() || found.len() == limit;
        if all { Ok(found) } else { self.follow(db, Plan::Sets, limit, from) }
    }

    fn plan(&self, db: &mut Db) -> Result<Plan> {
        let runs = format!("SELECT 1 FROM runs WHERE experiment IN {}", in_list(&self.experiments));
        if is_few(db, Sql::new(runs))? {
            return Ok(Plan::Sets);
        }
        for (at, comparison) in self.filter.iter().enumerate() {
            if let Some(set) = search::set(comparison)
                && is_few(db, set)?
            {
                return Ok(Plan::Set(at));
            }
        }
        Ok(if self.follows_an_index() { Plan::Walk } else { Plan::Sets })
    }

    fn follow(&self, db: &mut Db, plan: Plan, limit: usize, from: i64) -> Result<Vec<i64>> {
        let mut sql = self.sql(plan, db.dialect());
        sql.push(" LIMIT ").bind(limit as i64).push(" OFFSET ").bind(from);
        sql.rows(db)
    }

    fn metric_first(&self) -> Option<&Order> {
        self.orders.first().filter(|order| order.kind == Kind::Metric)
    }

    fn follows_an_index(&self) -> bool {
        match self.orders.first() {
            Some(order) if order.kind == Kind::Metric => true,
            // The index has the runs of each experiment in their order.
            None => !self.experiments.contains(','),
            Some(order) => order.kind == Kind::Attribute && order.key == "start_time" && !self.experiments.contains(','),
        }
    }

    fn sql(&self, plan: Plan, dialect: Dialect) -> Sql {
        let mut sql = Sql::new("SELECT r.id FROM ");
        let along = self.metric_first().filter(|_| plan == Plan::Walk);
        if along.is_some() {
            sql.push("latest_metrics o0").push(search::join_in_order(dialect)).push("runs r ON r.id = o0.run");
        } else {
            sql.push("runs r");
        }
        for (at, order) in self.orders.iter().enumerate().skip(usize::from(along.is_some())) {
            search::join_order(&mut sql, at, order);
        }
        sql.push(" WHERE ");
        if let Some(order) = along {
            sql.push("o0.is_nan = 0 AND o0.key = (SELECT id FROM keys WHERE name = ").bind(order.key.clone()).push(") AND ");
        }
        // With the sign the condition is no reason to use an index.
        sql.push(if plan == Plan::Walk && along.is_none() || plan == Plan::Sets { "r.experiment IN " } else { "+r.experiment IN " });
        sql.push(in_list(&self.experiments)).push(" AND ");
        search::of_view(&mut sql, "r.stage", self.view);
        for (at, comparison) in self.filter.iter().enumerate() {
            sql.push(" AND ");
            search::of_run(&mut sql, comparison.clone(), plan != Plan::Sets && plan != Plan::Set(at));
        }
        sql.push(" ORDER BY ");
        for (at, order) in self.orders.iter().enumerate() {
            if at == 0 && along.is_some() {
                sql.push("o0.value").push(search::direction(order));
            } else {
                search::order_runs(&mut sql, at, order);
            }
            sql.push(", ");
        }
        // A second start would be sorted by although it decides nothing.
        let has_start = self.orders.iter().any(|order| order.kind == Kind::Attribute && order.key == "start_time");
        sql.push(if has_start { "r.run_id" } else { "r.start_time DESC, r.run_id" });
        sql
    }
}

fn is_few(db: &mut Db, mut rows: Sql) -> Result<bool> {
    rows.push(" LIMIT 1 OFFSET ").bind(FEW as i64);
    Ok(rows.optional::<i64>(db)?.is_none())
}

#[cfg(test)]
mod tests {
    use super::super::Tracking;
    use super::*;
    use crate::db::Source;
    use crate::grammar::RUNS;

    const FILTERS: [&str; 7] = [
        "",
        "metrics.m > 0.5",
        "metrics.m != 0.25 AND params.p = 'p1'",
        "params.p != 'p1' AND tags.t LIKE 't%'",
        "params.rare = 'x' AND metrics.m < 0.75 AND attributes.status = 'RUNNING'",
        "params.p IS NULL AND tags.t ILIKE 'T2'",
        "tags.t IS NOT NULL AND params.rare IS NULL",
    ];
    const ORDERS: [&[&str]; 6] = [
        &[],
        &["attributes.start_time DESC"],
        &["attributes.start_time ASC", "metrics.m ASC"],
        &["metrics.m DESC"],
        &["metrics.m ASC", "params.p DESC"],
        &["params.p ASC"],
    ];

    fn search(experiments: &str, filter: &str, orders: &[&str]) -> RunSearch {
        let orders: Vec<String> = orders.iter().map(ToString::to_string).collect();
        RunSearch {
            experiments: experiments.into(),
            view: View::Active,
            filter: RUNS.filter(filter).unwrap(),
            orders: RUNS.orders(&orders).unwrap(),
        }
    }

    /// `count` runs in experiment 0 and a tenth as many in 1: a third lacks the metric, a third the param, some of either are not numbers.
    async fn filled(count: usize) -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        Tracking::open(dir.path()).await.unwrap().close().await;
        let mut db = Source::File(dir.path().join("tracking.db")).connect().unwrap();
        let n = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count} * 11 / 10)");
        let fill = format!(
            "BEGIN; INSERT INTO keys (id, name) VALUES (1, 'm'), (2, 'p'), (3, 't'), (4, 'rare');
             INSERT INTO runs (id, run_id, experiment, name, user_id, status, stage, start_time, artifact_uri)
             {n} SELECT i, printf('%032x', i * 7919 % 100003), i > {count}, 'r', '', CASE i % 7 WHEN 0 THEN 'FAILED' ELSE 'RUNNING' END,
                 CASE i % 11 WHEN 0 THEN 'deleted' ELSE 'active' END, i * 31 % 997, '' FROM n;
             INSERT INTO latest_metrics (run, key, timestamp, step, value, is_nan)
             {n} SELECT i, 1, 1, 1, CASE i % 10 WHEN 0 THEN 0 ELSE i * 13 % 101 / 100.0 END, i % 10 = 0 FROM n WHERE i % 3 > 0;
             INSERT INTO params (run, key, value) {n} SELECT i, 2, 'p' || (i % 4) FROM n WHERE i % 3 < 2;
             INSERT INTO params (run, key, value) {n} SELECT i, 4, 'x' FROM n WHERE i % 40 = 1;
             INSERT INTO tags (run, key, value) {n} SELECT i, 3, 't' || (i % 5) FROM n; COMMIT;"
        );
        db.script(&fill).unwrap();
        (dir, db)
    }

    #[tokio::test]
    async fn every_plan_finds_the_same() {
        let (_dir, mut db) = filled(300).await;
        let mut found = 0;
        for (experiments, filter, orders) in
            ["0", "0,1"].iter().flat_map(|e| FILTERS.iter().flat_map(move |f| ORDERS.iter().map(move |o| (e, f, o))))
        {
            let search = search(experiments, filter, orders);
            let want = search.follow(&mut db, Plan::Sets, 1000, 0).unwrap();
            found += want.len();
            for at in (0..search.filter.len()).filter(|at| search::set(&search.filter[*at]).is_some()) {
                assert_eq!(search.follow(&mut db, Plan::Set(at), 1000, 0).unwrap(), want, "{filter} {orders:?} from {at}");
            }
            let walked = search.follow(&mut db, Plan::Walk, 1000, 0).unwrap();
            let whole = if search.metric_first().is_some() { walked.len() } else { want.len() };
            assert_eq!(walked, want[..whole], "{filter} {orders:?}");
        }
        assert!(found > 5000, "the filters are too narrow to say anything: {found}");
    }

    #[tokio::test]
    async fn a_page_of_many_runs_does_not_look_at_all_of_them() {
        let (_dir, mut db) = filled(30_000).await;
        let plans = [
            ("", &[][..], Plan::Walk),
            ("", &["attributes.start_time DESC"], Plan::Walk),
            ("metrics.m > 0.5 AND params.p = 'p1'", &["metrics.m DESC"], Plan::Walk),
            ("params.p = 'p1'", &["attributes.start_time ASC"], Plan::Walk),
            ("metrics.m > 0.5 AND params.rare = 'x'", &["metrics.m DESC"], Plan::Set(1)),
            ("metrics.m > 0.5 AND params.rare = 'x'", &["params.p ASC"], Plan::Set(1)),
            ("params.rare IS NULL", &["params.p ASC"], Plan::Sets),
        ];
        for (filter, orders, plan) in plans {
            let search = search("0", filter, orders);
            assert_eq!(search.plan(&mut db).unwrap(), plan, "{filter} {orders:?}");
            let want = search.follow(&mut db, Plan::Sets, 100_000, 0).unwrap();
            // To the last page, and past what has a number for the metric.
            let mut got = Vec::new();
            loop {
                let page = search.find(&mut db, 3001, got.len() as i64).unwrap();
                if page.is_empty() {
                    break;
                }
                got.extend(page);
            }
            assert_eq!(got, want, "{filter} {orders:?}");
            let sql = search.sql(plan, Dialect::Sqlite);
            let steps: Vec<(i64, i64, i64, String)> = db.rows(&format!("EXPLAIN QUERY PLAN {}", sql.text()), sql.values()).unwrap();
            let steps: Vec<String> = steps.into_iter().map(|(.., detail)| detail).collect();
            let index = match (plan, search.metric_first()) {
                (Plan::Set(_), _) => "INTEGER PRIMARY KEY",
                (Plan::Walk, Some(_)) => "latest_metrics_by_value",
                _ => "runs_by_start",
            };
            assert!(steps[0].contains(index), "{steps:?}");
            let sorts_all = steps.iter().any(|step| step == "USE TEMP B-TREE FOR ORDER BY");
            assert_eq!(sorts_all, plan != Plan::Walk, "{steps:?}");
            let sorts_none = !steps.iter().any(|step| step.contains("B-TREE"));
            assert_eq!(sorts_none, filter.is_empty(), "{steps:?}");
        }
    }
}
