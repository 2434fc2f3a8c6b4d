//! The engine alone.

use kilter_sql::{Format, Rights, Session, SqlError, Writer};

use crate::shop::{self, PAYMENTS, Shop};

impl Shop {
    /// The answer as lines of CSV, without the names.
    pub async fn ask(&self, sql: &str) -> Result<String, SqlError> {
        self.ask_with(&Rights::Everything, sql).await
    }

    /// The same for whoever has these rights.
    pub async fn ask_with(&self, rights: &Rights, sql: &str) -> Result<String, SqlError> {
        let session = Session::new("ada", "shop", rights.clone());
        let prepared = self.engine.ask(sql, &session).await?;
        let mut answer = self.engine.run(&prepared, &session, Vec::new(), None).await?;
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, Format::Csv, &answer.schema, &prepared.names())?;
        while let Some(batch) = answer.next().await? {
            writer.write(&batch)?;
        }
        writer.finish()?;
        drop(writer);
        let text = String::from_utf8(out).unwrap();
        Ok(text.split_once('\n').unwrap().1.trim_end().to_owned())
    }

    pub async fn check(&self, sql: &str, expected: &str) {
        match self.ask(sql).await {
            Ok(answer) => assert_eq!(answer, expected, "{sql}"),
            Err(e) => panic!("{sql}: {} {e}", e.code),
        }
    }

    pub async fn refused(&self, sql: &str, code: &'static str) {
        let answer = self.ask(sql).await;
        assert_eq!(answer.as_ref().map_err(|e| e.code), Err(code), "{sql}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_kept_can_be_asked_for() {
    let shop = shop::open().await;
    shop.check("select count(*) from decisions", &PAYMENTS.to_string()).await;
    shop.check("select outcome, count(*) from decisions group by outcome order by 1", "accept,5994\nreview,6").await;
    shop.check("select count(*), min(amount), max(amount) from payments", "6000,0.0,1000.0").await;
    shop.check(
        "select p.payment_id, d.outcome from decisions d join events.payments p on p._offset = d.event_offset where p.amount > 900 order by d.time limit 2",
        "p0,review\np1000,review",
    )
    .await;
    shop.check("select source, count(*) from dead_letters group by 1", "payments,1").await;
    shop.check("select source, columns from sources", "payments,4").await;
    for table in
        ["runs", "run_params", "run_tags", "run_metrics", "models", "model_versions", "alerts", "monitors", "schedules", "decision_reasons"]
    {
        shop.check(&format!("select count(*) from {table}"), "0").await;
    }
}

/// What a scan passes over is never part of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_time_and_offset_give_what_a_look_at_everything_gives() {
    let shop = shop::open().await;
    // Twice: the second time the stretches are known.
    for _ in 0..2 {
        for (condition, plain) in [
            ("time >= '2023-11-15 00:00:00'", "cast(time as text) >= '2023-11-15T00:00:00'"),
            (
                "time between '2023-11-15' and '2023-11-16'",
                "cast(time as text) >= '2023-11-15T00:00:00' and cast(time as text) <= '2023-11-16T00:00:00Z'",
            ),
            ("event_offset < 4097 and event_offset > 4095", "event_offset + 0 = 4096"),
            ("decision_id = 'pay-17'", "decision_id || '' = 'pay-17'"),
            ("decision in ('pay', 'other') and time > '2023-11-18'", "cast(time as text) > '2023-11-18T00:00:00Z'"),
            ("decision = 'other'", "false"),
        ] {
            let count = |condition: &str| format!("select count(*), min(event_offset), max(event_offset) from decisions where {condition}");
            let expected = shop.ask(&count(plain)).await.unwrap();
            shop.check(&count(condition), &expected).await;
        }
        let events = |condition: &str| format!("select count(*), min(_offset), max(_offset) from payments where {condition}");
        let expected = shop.ask(&events("cast(_time as text) > '2023-11-17T10:00:00Z'")).await.unwrap();
        shop.check(&events("_time > '2023-11-17 10:00:00'"), &expected).await;
    }
    shop.check("select event_offset from decisions limit 2", "5999\n5998").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_codes_of_postgresql() {
    let shop = shop::open().await;
    shop.refused("select nothing from decisions", "42703").await;
    shop.refused("select * from nothing", "42P01").await;
    shop.refused("select nothing(1)", "42883").await;
    shop.refused("selec 1", "42601").await;
    shop.refused("delete from decisions", "25006").await;
    shop.refused("create view v as select 1", "25006").await;
    shop.refused("select * from pg_catalog.nothing", "42P01").await;
    let error = shop.ask("select outcom from decisions").await.unwrap_err();
    assert!(error.to_string().contains("outcome"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_tells_of_every_table_and_column() {
    let shop = shop::open().await;
    shop.check("select current_database(), current_schema(), current_user", "shop,public,ada").await;
    shop.check("select table_schema from information_schema.tables where table_name = 'payments'", "events").await;
    shop.check(
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), (SELECT d.adbin FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND a.atthasdef) \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = 'events.payments'::regclass AND a.attname OPERATOR(pg_catalog.~) '^(card|at)$' COLLATE pg_catalog.default \
         ORDER BY a.attnum",
        "card,bigint,\nat,timestamp with time zone,",
    )
    .await;
    shop.check("select 'events.payments'::regclass::oid = 'payments'::regclass::oid as same", "true").await;
    shop.check("select obj_description('decisions'::regclass)", "\"Every decision that was made, newest first\"").await;
    shop.check("select count(*) from pg_class c where relkind = any(array['r','p']) and relname = 'decisions'", "1").await;
    shop.check(
        "select s.n, (current_schemas(false))[s.n] as name from generate_series(1, 2) as s(n) join pg_class on relname = 'decisions'",
        "1,public\n2,events",
    )
    .await;
    shop.check("select i.indkey[0] from pg_index i", "").await;
    shop.check("select typname from pg_type where typinput = 'pg_catalog.array_in'::regproc and typelem = 25", "_text").await;
    shop.check("select oid::regtype::text, 'pg_class'::regclass::text from pg_type where oid = 20", "bigint,pg_class").await;
    shop.check("select nspname from pg_namespace where nspname = any(current_schemas(false)) order by 1", "events\npublic").await;
    shop.check("select array(select nspname from pg_namespace where oid = 2200)", "{public}").await;
    shop.check("select (parse_ident('a.\"B.c\"'))[2], array_length(parse_ident('x.y'), 1)", "B.c,2").await;
    shop.check(
        "select trim(p[n]) from generate_series(1, 2) as n, string_to_array('x, y', ',') p, pg_class c where c.relname = 'decisions' order by 1",
        "x\ny",
    )
    .await;
    let rights = "with r as (select has_table_privilege(relname, 'select') as reads, has_table_privilege(relname, 'delete') as deletes from pg_class \
                  where relname = 'decisions') select r.* from r";
    shop.check(rights, "true,false").await;
    shop.check("select count(word) from pg_catalog.pg_get_keywords()", "0").await;
    shop.refused("select pg_nothing(oid) from pg_class", "42883").await;
    // What could reach beyond the catalogue is not there.
    assert!(shop.ask("select load_extension('x') from pg_class").await.is_err());
    assert!(shop.ask("select name from pg_class, sqlite_master").await.is_err());
}

/// A question that does not end by itself ends when its time is up, or when nobody waits for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_runs_for_ever() {
    let shop = shop::open().await;
    let session = Session::new("ada", "shop", Rights::Everything);
    for sql in [
        "select count(*) from generate_series(1, 1000000000000)",
        "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t, pg_class",
    ] {
        let prepared = shop.engine.ask(sql, &session).await.unwrap();
        let time = Some(std::time::Duration::from_millis(300));
        let ended = match shop.engine.run(&prepared, &session, Vec::new(), time).await {
            Ok(mut answer) => answer.next().await.map(drop),
            Err(e) => Err(e),
        };
        assert_eq!(ended.map_err(|e| e.code), Err("57014"), "{sql}");
    }
}
