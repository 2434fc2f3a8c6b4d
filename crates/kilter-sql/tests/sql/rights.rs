//! Rights to tables, columns and rows: what is hidden stays hidden, whatever is asked.

use std::time::Duration;

use kilter_sql::{Rights, Session, SqlError};

use crate::shop::{self, PAYMENTS, Shop};
use crate::wire::{Client, Door, serve_behind};

/// Payments below 50, without their amounts, and decisions that let pass, with two columns.
const GRANTS: [&str; 2] = [
    "events.payments (payment_id, card, at, _offset) WHERE amount < 50",
    "decisions (time, outcome, event_offset) WHERE outcome = 'accept'",
];
/// Half of them, but for one in a thousand, which is large.
const SHOWN: i64 = PAYMENTS / 2 - 6;

fn rights(grants: &[&str]) -> Rights {
    Rights::Granted(grants.iter().map(|grant| (*grant).to_owned()).collect())
}

/// One that may see a part, of whom it is told what a question comes to.
struct Part<'a> {
    shop: &'a Shop,
    rights: Rights,
}

impl Part<'_> {
    async fn check(&self, sql: &str, expected: &str) {
        match self.shop.ask_with(&self.rights, sql).await {
            Ok(answer) => assert_eq!(answer, expected, "{sql}"),
            Err(e) => panic!("{sql}: {} {e}", e.code),
        }
    }

    async fn refused(&self, sql: &str) -> SqlError {
        self.shop.ask_with(&self.rights, sql).await.expect_err(sql)
    }

    /// Is answered as somebody who may see everything would be about nothing but what is shown.
    async fn sees(&self, sql: &str) {
        let whole = format!(
            "with payments as (select _offset, payment_id, card, at from events.payments where amount < 50), \
             decisions as (select time, outcome, event_offset from public.decisions where outcome = 'accept') {sql}"
        );
        let expected = self.shop.ask(&whole).await.unwrap_or_else(|e| panic!("{whole}: {e}"));
        self.check(sql, &expected).await;
    }
}

async fn part_of<'a>(shop: &'a Shop, grants: &[&str]) -> Part<'a> {
    Part { shop, rights: rights(grants) }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_columns_that_are_granted_are_all_there_is() {
    let shop = shop::open().await;
    let part = part_of(&shop, &GRANTS).await;
    part.check("select count(*) from payments", &SHOWN.to_string()).await;
    part.check("select outcome, count(*) from decisions group by 1", &format!("accept,{}", PAYMENTS - 6)).await;
    for question in [
        "select * from payments order by at limit 3",
        "select * from payments order by _offset desc limit 3",
        "select card, count(*), min(payment_id), max(_offset), sum(_offset) from payments group by 1 order by 1",
        "select count(*), count(distinct card) from payments where card = 3 and at > '2023-11-15'",
        "select date_trunc('day', time), count(*) from decisions group by 1 order by 1",
        "select count(*) from decisions d join payments p on p._offset = d.event_offset",
        "select p.payment_id, d.outcome from payments p left join decisions d on d.event_offset = p._offset order by p._offset limit 5",
        "select count(*) from payments where _offset in (1, 5, 60, 999)",
        "select payment_id, row_number() over (partition by card order by at) from payments order by 1 limit 7",
    ] {
        part.sees(question).await;
    }
    // The order in which they come, and where the rows end.
    part.check("select payment_id from payments limit 2", "p5949\np5948").await;
    part.check("select count(*) from (select 1 from payments limit 17)", "17").await;
    part.check("select payment_id from events.payments where payment_id in ('p49', 'p50', 'p1000') order by 1", "p49").await;
}

/// Each tries to learn something of what is hidden, and learns what it would if there were no such thing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_stays_hidden() {
    let shop = shop::open().await;
    let part = part_of(&shop, &GRANTS).await;

    // Errors that rows would make: p999 is hidden, p10 is not.
    let number = "cast(substr(payment_id, 2) as bigint)";
    for (of_hidden, of_shown) in [(999, 10), (1000, 49)] {
        for question in [
            "select count(*) from payments where 1 / ({number} - {n}) > -5",
            "select sum(1 / ({number} - {n})) from payments",
            "select payment_id from payments order by 1 / ({number} - {n}), 1 limit 1",
            "select max(payment_id) filter (where 1 / ({number} - {n}) is not null) from payments",
            "select count(*) from payments a join payments b on a._offset = b._offset and 1 / (cast(substr(a.payment_id, 2) as bigint) - {n}) is not null",
            "with p as (select 1 / ({number} - {n}) as x from payments) select count(x) from p",
            "select count(*) from payments group by 1 / ({number} - {n}) order by 1 limit 1",
            "select count(*) from payments where at > '2000-01-01' and case when {number} = {n} then 1 / ({number} - {n}) else 1 end = 1",
        ] {
            let ask = |n: i32| question.replace("{number}", number).replace("{n}", &n.to_string());
            // A question over the same rows would fail for somebody who sees everything: the planner may put conditions where they see all rows.
            part.shop.ask_with(&part.rights, &ask(of_hidden)).await.unwrap_or_else(|e| panic!("{question}: {} {e}", e.code));
            assert_eq!(part.refused(&ask(of_shown)).await.code, "22012", "{question}");
        }
    }

    // Columns, by whatever name.
    for question in [
        "select amount from payments",
        "select \"amount\" from events.payments",
        "select AMOUNT from payments",
        "select p.amount from payments p",
        "select events.payments.amount from events.payments",
        "select shop.events.payments.amount from shop.events.payments",
        "select payment_id from payments where amount > 900",
        "select payment_id from payments order by amount desc",
        "select count(*) from payments group by amount",
        "select count(amount) from payments",
        "select a.card from payments a join payments b using (amount)",
        "select x.amount from (select * from payments) x",
        "with p as (select * from payments) select amount from p",
        "select score from decisions",
        "select _extra from payments",
        "select (select amount from payments limit 1)",
        "select 1 where exists (select 1 from payments p where p.amount > 900)",
    ] {
        let error = part.refused(question).await;
        assert_eq!(error.code, "42703", "{question}: {error}");
        assert!(!error.hint.unwrap_or_default().contains("amount"), "{question}");
    }
    part.check(
        "select payment_id, card, amount from payments natural join (select 'p1' as payment_id, 7.0 as amount) x order by 1",
        "p1,1,7.0",
    )
    .await;

    // Tables, which are as if they were not.
    for table in [
        "labels",
        "decision_reasons",
        "public.decision_features",
        "dead_letters",
        "definitions",
        "runs",
        "features.card",
        "lake_files",
        "source_status",
        "shop.public.sources",
    ] {
        shop.ask(&format!("select count(*) from {table}")).await.unwrap_or_else(|e| panic!("{table}: {e}"));
        let bare = table.rsplit('.').next().unwrap();
        let none = table.replace(bare, "nowhere");
        for question in [
            "select * from {}",
            "select count(*) from payments, {}",
            "explain select 1 from {}",
            "with x as (select * from {}) select 1 from x",
        ] {
            let told = |e: SqlError, name: &str| (e.code, e.message.replace(name, "?"), e.hint);
            let of_hidden = told(part.refused(&question.replace("{}", table)).await, bare);
            assert_eq!(of_hidden, told(part.refused(&question.replace("{}", &none)).await, "nowhere"), "{question} {table}");
            assert_eq!(of_hidden.0, "42P01", "{question} {table}");
        }
    }
    for table in ["Events.\"Payments\"", "\"EVENTS\".payments", "public.payments", "\"Decisions\"", "tracking.runs"] {
        assert_eq!(part.refused(&format!("select * from {table}")).await.code, "42P01", "{table}");
    }
    let words = |e: SqlError, name: &str| (e.code, e.message.replace(name, "?"), e.hint);
    let past = words(part.refused("select * from features_at('card', now())").await, "features_at");
    assert_eq!(past, words(part.refused("select * from nothing_at('card', now())").await, "nothing_at"));

    // Plans tell of what is asked, not of the grant; and how much work it was is not told at all.
    for question in ["select count(*) from payments where card = 3", "select * from decisions order by time desc limit 3"] {
        for explain in ["explain", "explain verbose"] {
            let plan = part.shop.ask_with(&part.rights, &format!("{explain} {question}")).await.unwrap().to_lowercase();
            assert!(!plan.contains("amount") && !plan.contains("accept") && !plan.contains("score"), "{plan}");
            assert!(!plan.contains("pieces:"), "states of pieces are of all rows: {plan}");
        }
        for explain in ["explain analyze", "explain analyze verbose"] {
            assert_eq!(part.refused(&format!("{explain} {question}")).await.code, "42501");
        }
    }

    // The catalogue knows no more.
    for (question, expected) in [
        (
            "select table_schema || '.' || table_name from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema') order by 1",
            "events.payments\npublic.decisions",
        ),
        (
            "select column_name from information_schema.columns where table_name = 'payments' order by ordinal_position",
            "_offset\npayment_id\ncard\nat",
        ),
        ("select attname from pg_attribute where attrelid = 'events.payments'::regclass and attname = 'amount'", ""),
        ("select count(*) from pg_class where relname in ('labels', 'runs', 'dead_letters', 'card')", "0"),
        (
            "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname in ('public', 'events', 'features', 'tracking')",
            "2",
        ),
        ("select count(*) from pg_description d join pg_class c on c.oid = d.objoid where c.relname not in ('payments', 'decisions')", "0"),
        ("select count(*) from pg_stat_user_tables where relname = 'labels' or n_live_tup > 0", "0"),
        ("select count(*) from pg_stats", "0"),
        ("select max(reltuples) <= 0 from pg_class", "true"),
        ("select count(*) from pg_policy", "0"),
    ] {
        part.check(question, expected).await;
    }
    for question in [
        "select to_regclass('public.{}')",
        "select '{}'::regclass::oid",
        "select * from pg_class, {}",
        "select has_table_privilege('{}', 'select') from pg_class limit 1",
        "select obj_description('{}'::regclass)",
        "select col_description(oid, 1) from pg_class where relname = '{}'",
    ] {
        let told = async |name: &str| {
            let answer = part.shop.ask_with(&part.rights, &question.replace("{}", name)).await;
            answer.map_err(|e| (e.code, e.message.replace(name, "?"), e.hint))
        };
        assert_eq!(told("labels").await, told("nothing").await, "{question}");
    }

    // Nothing else to lay hands on.
    for question in ["table labels", "select * from (table definitions) x", "select * from 'columns/0.parquet'", "copy labels to stdout"] {
        part.refused(question).await;
    }
}

/// How rows are cut into batches says nothing of how many were passed over between them.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_of_rows_that_are_shown() {
    let shop = shop::open().await;
    // One in a hundred: they lie in two stretches of the log.
    let rights = rights(&["events.payments (payment_id) WHERE amount = 7"]);
    let session = Session::new("ada", "shop", rights.clone());
    let prepared = shop.engine.ask("select payment_id from payments", &session).await.unwrap();
    let mut answer = shop.engine.run(&prepared, &session, Vec::new(), None).await.unwrap();
    let mut sizes = Vec::new();
    while let Some(batch) = answer.next().await.unwrap() {
        sizes.push(batch.num_rows());
    }
    assert_eq!(sizes, [60]);
    // What one call may make depends on the rows of its batch: 60 times 270 000 bytes is too much, wherever they lie.
    let error = shop.ask_with(&rights, "select sum(length(repeat('x', 280000 + length(payment_id)))) from payments").await.unwrap_err();
    assert!(error.message.contains("repeat would make"), "{error}");
}

/// Full pieces of the decision log lie on disk as columns.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_hidden_over_columns_on_disk_as_well() {
    let shop = shop::empty().await;
    shop.pay(0..65_536 + 4096 + 100).await;
    for (columns, condition) in [
        ("*", "outcome = 'review'"),
        ("decision_id, event_offset", "outcome = 'review' AND time < '2023-12-20'"),
        ("time, outcome, event_offset", "decision_id IN ('pay-5', 'pay-65535', 'pay-65536', 'pay-69000')"),
        ("outcome, event_offset", "event_offset BETWEEN 65000 AND 66000 AND reasons IS NOT NULL"),
        ("*", "time > '2023-12-29 22:00:00' AND time <= '2023-12-30 02:00:00.5'"),
    ] {
        let list = if columns == "*" { String::new() } else { format!(" ({columns})") };
        let rights = rights(&[&format!("decisions{list} WHERE {condition}")]);
        for question in [
            "select count(*), min(event_offset), max(event_offset), sum(event_offset) from decisions",
            "select event_offset from decisions limit 3",
            "select event_offset from decisions where event_offset > 60000 order by event_offset limit 4",
        ] {
            let whole = format!("with decisions as (select {columns} from public.decisions where {condition}) {question}");
            let expected = shop.ask(&whole).await.unwrap();
            for _ in 0..2 {
                assert_eq!(shop.ask_with(&rights, question).await.unwrap(), expected, "{columns} {condition}: {question}");
            }
        }
    }
}

/// What is kept of pieces of the log for one is no answer for another.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_one_is_not_told_to_another() {
    let shop = shop::open().await;
    let question = "select outcome, count(*), max(event_offset) from decisions group by 1 order by 1";
    let all = "accept,5994,5999\nreview,6,5000";
    let rows = rights(&["decisions WHERE outcome = 'review'"]);
    let columns = rights(&["decisions (outcome, event_offset)"]);
    let others = rights(&["decisions (event_offset, outcome, decision, time)"]);
    for _ in 0..2 {
        shop.check(question, all).await;
        let before = shop.engine.kept_states();
        assert_eq!(shop.ask_with(&rows, question).await.unwrap(), "review,6,5000");
        assert_eq!(shop.engine.kept_states(), before, "rows are hidden: nothing is kept");
        // Where only columns are, aggregates go by pieces as for everybody.
        assert_eq!(shop.ask_with(&columns, question).await.unwrap(), all);
        assert_eq!(shop.ask_with(&others, question).await.unwrap(), all);
    }
    let before = shop.engine.kept_states();
    assert_eq!(shop.ask_with(&columns, "select min(event_offset) from decisions").await.unwrap(), "0");
    assert!(shop.engine.kept_states() > before);
    let with_time = "select count(*) from decisions where time > '2023-11-16' and decision = 'pay'";
    assert_eq!(shop.ask_with(&others, with_time).await.unwrap(), shop.ask(with_time).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_granted_by_their_view_now_and_then() {
    let shop = shop::open().await;
    let part = part_of(&shop, &["features.card (card, count_1d, _last_event) WHERE card < 2 AND _as_of IS NOT NULL"]).await;
    part.check("select card from features.card order by 1", "0\n1").await;
    part.check("select count(*) from features.card where card in (1, 3)", "1").await;
    let now = shop.service.data.events.next_offset();
    let past = format!("select card, count_1d, _last_event from features_at('card', {now})");
    let expected = shop.ask(&format!("{past} where card < 2 order by 1")).await.unwrap();
    assert_eq!(expected.lines().count(), 2);
    part.check(&format!("{past} order by 1"), &expected).await;
    part.check(&format!("select count(*) from features_at('card', '1', {now})"), "1").await;
    // An entity that is hidden is as one that is not there.
    for key in [3, 99] {
        part.check(&format!("select count(*) from features_at('card', '{key}', {now})"), "0").await;
    }
    for bad in ["select _as_of from features_at('card', now())", "select _as_of_offset from features.card"] {
        assert_eq!(part.refused(bad).await.code, "42703", "{bad}");
    }
    let error = part.refused("select * from features_at('cards', now())").await;
    assert_eq!((error.code, error.hint.as_deref()), ("42704", Some("there are: card")));
    // Whoever does not see the key cannot ask by it.
    let part = part_of(&shop, &["features.card (count_1d)"]).await;
    part.check(&format!("select count(*), count(count_1d) from features_at('card', {now})"), "5,5").await;
    assert_eq!(part.refused(&format!("select * from features_at('card', '1', {now})")).await.code, "42703");
    // Words on features say what they are made of.
    let words = "select obj_description('features.card'::regclass) is null, (select count(*) from pg_description where objoid = 'features.card'::regclass)";
    part.check(&format!("{words} from pg_class limit 1"), "true,0").await;
    assert_ne!(shop.ask(&format!("{words} from pg_class limit 1")).await.unwrap(), "true,0");
    // Where the log ends is told by no error.
    let error = part.refused("select * from features_at('card', 123456789)").await;
    assert!(error.code == "55000" && !error.to_string().contains(|c: char| c.is_ascii_digit()), "{error}");
    assert_eq!(part.refused("select * from features.card where card = 1").await.code, "42703");
    let part = part_of(&shop, &["features.*"]).await;
    part.check("select count(*) from features.card", "5").await;
    part.check(&format!("select count(*) from features_at('card', '1', {now})"), "1").await;
    assert_eq!(part.refused("select count(*) from decisions").await.code, "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_for_one_table_add_up_in_rows_and_agree_in_columns() {
    let shop = shop::open().await;
    let count = "select count(*) from payments";
    for (grants, expected) in [
        (&["events.payments WHERE card = 1", "events.payments WHERE card = 2 OR card = 1"][..], "2400"),
        (&["events.payments WHERE card = 1", "events.payments"], "6000"),
        (&["events.payments (card, at) WHERE card = 1", "events.payments (at, card) WHERE amount > 900"], "1206"),
        (&["events.* ", "events.payments WHERE card = 1"], "6000"),
        (&["events.payments WHERE payment_id = 'p1' OR amount / 0 > 1 OR _extra IS NULL"], "6000"),
        (&["events.payments WHERE at >= now() - interval '1 hour'"], "0"),
        (&["events.payments WHERE at < now() - interval '1 hour' AND \"card\" IN (1, 2)"], "2400"),
        (&["events.payments WHERE _time BETWEEN '2023-11-15' AND '2023-11-16' AND card = 1"], "288"),
        (&["events.payments WHERE card = NULL"], "0"),
        (&["events.payments WHERE true"], "6000"),
    ] {
        shop.engine
            .check_grants(&grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>())
            .unwrap_or_else(|e| panic!("{grants:?}: {e}"));
        assert_eq!(shop.ask_with(&rights(grants), count).await.unwrap_or_else(|e| panic!("{grants:?}: {e}")), expected, "{grants:?}");
    }
    // Where the condition fails on a row, that row is hidden, and nobody is told.
    let odd = rights(&["events.payments (payment_id) WHERE 1000 / (card - 3) < 0"]);
    assert_eq!(shop.ask_with(&odd, count).await.unwrap(), "3600");
    assert_eq!(shop.ask_with(&odd, "select count(*) from payments where payment_id in ('p3', 'p4', 'p2')").await.unwrap(), "1");
}

/// What cannot be given is refused when the key is made, and gives nothing where it is found out later.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_granted_is_not_widened() {
    let shop = shop::open().await;
    for (grants, says) in [
        (&["events.payment"][..], "did you mean `events.payments`?"),
        (&["payments"], "did you mean `events.payments`?"),
        (&["nowhere.*"], "the schemas are"),
        (&["events.payments (amuont)"], "did you mean `amount`?"),
        (&["events.payments (\"Card\")"], "did you mean `card`?"),
        (&["events.payments WHERE amuont > 5"], "amount"),
        (&["events.payments WHERE amount"], "is true or false"),
        (&["events.payments WHERE count(*) > 5"], "more than one row"),
        (&["events.payments WHERE row_number() over () > 5"], "more than one row"),
        (&["events.payments WHERE amount > random()"], "something else each time"),
        (&["events.payments WHERE card IN (SELECT card FROM payments)"], "another question"),
        (&["events.payments WHERE card = $1"], "a parameter"),
        (&["events.payments WHERE nothing(card)"], "nothing"),
        (&["events.payments WHERE other.card = 1"], "card"),
        (&["events.payments WHERE repeat('x', 5) = array_repeat(1, 2)"], "array_repeat"),
        (&["events.payments (card) WHERE card = 1", "events.payments (card, at)"], "differ in their columns"),
        (&["events.payments (card)", "events.*"], "differ in their columns"),
        (&["decisions", "events.payments ("], "write it like"),
    ] {
        let texts: Vec<String> = grants.iter().map(|grant| (*grant).to_owned()).collect();
        let error = shop.engine.check_grants(&texts).expect_err(says);
        assert!(error.to_string().contains(says), "{grants:?}: {error}");
        assert!(error.message.starts_with("the grant `"), "{error}");
        let part = Part { shop: &shop, rights: rights(grants) };
        assert_eq!(part.refused("select 1 from events.payments").await.code, "42P01", "{grants:?}");
        part.check("select 1", "1").await;
    }
    // Of what is wrong nothing is given; the rest is.
    let part = part_of(&shop, &["events.payments (amuont)", "decisions (outcome)"]).await;
    part.check("select count(*) from decisions", "6000").await;
    assert_eq!(part.refused("select * from payments").await.code, "42P01");
    let nothing = Part { shop: &shop, rights: Rights::Granted([].into()) };
    nothing
        .check("select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where nspname in ('public', 'events')", "0")
        .await;
    assert_eq!(nothing.refused("select * from decisions").await.code, "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_definitions_lose_takes_its_table_along() {
    let shop = shop::open().await;
    let part = part_of(&shop, &["events.payments (payment_id) WHERE amount < 50", "events.payments (payment_id) WHERE card = 1"]).await;
    part.check("select count(*) from payments", "3594").await;
    let session = Session::new("ada", "shop", part.rights.clone());
    let prepared = shop.engine.ask("select count(*) from payments", &session).await.unwrap();
    let before = shop.service.current();
    let text = before.project.toml_text.replace("amount = {", "price = {").replace("amount > 900", "price > 900");
    std::fs::write(before.project.dir.join("kilter.toml"), text).unwrap();
    before.apply().await.unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while std::sync::Arc::ptr_eq(&before.plan, &shop.service.current().plan) {
        assert!(std::time::Instant::now() < until, "the definitions do not change");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // One of the two still makes sense, and by itself would show other rows than were meant.
    assert_eq!(part.refused("select count(*) from payments").await.code, "42P01");
    let outdated = shop.engine.run(&prepared, &session, Vec::new(), None).await.err().expect("it was understood under other definitions");
    assert_eq!(outdated.code, "0A000");
    assert_eq!(shop.ask("select count(*) from payments").await.unwrap(), "6000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_runs_for_the_rights_that_it_was_understood_for() {
    let shop = shop::open().await;
    let everything = Session::new("ada", "shop", Rights::Everything);
    let part = Session::new("bi", "shop", rights(&GRANTS));
    for (of, by) in [(&everything, &part), (&part, &everything)] {
        let prepared = shop.engine.ask("select count(*) from payments", of).await.unwrap();
        assert_eq!(shop.engine.run(&prepared, by, Vec::new(), None).await.err().expect("other rights").code, "0A000");
        assert!(shop.engine.run(&prepared, of, Vec::new(), None).await.is_ok());
    }
    let catalogue = shop.engine.ask("select relname from pg_class", &everything).await.unwrap();
    assert!(shop.engine.run(&catalogue, &part, Vec::new(), None).await.is_err());
    // What somebody has is found again, and made once; of what nobody has, some are kept.
    let of = |n: i64| Session::new("bi", "shop", rights(&[&format!("events.payments WHERE _offset <= {n}")]));
    let mut held = Vec::new();
    for n in (0..20).chain(0..20) {
        held.push(shop.engine.ask("select count(*) from payments", &of(n)).await.unwrap());
        assert!(shop.engine.partial_worlds() <= 21);
    }
    drop(held);
    assert_eq!(shop.engine.ask("select 1", &of(0)).await.map(drop), Ok(()));
    assert_eq!(shop.engine.partial_worlds(), 16);
    // Many sets of grants, more than are kept: each has its own.
    for n in (0..40).chain([0, 39, 20]) {
        let rights = rights(&[&format!("events.payments WHERE _offset <= {n}")]);
        assert_eq!(shop.ask_with(&rights, "select count(*) from payments").await.unwrap(), (n + 1).to_string());
    }
}

/// What was prepared, declared or bound before a change of grants does not outlive it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_grants_holds_from_the_next_statement_on() {
    let shop = shop::open().await;
    let door = Door::new(Some("secret"), Rights::Everything);
    let address = serve_behind(&shop, door.clone(), 5).await;
    let see = |grants: Option<&[&str]>| *door.rights.lock().unwrap() = Some(grants.map_or(Rights::Everything, rights));
    let mut client = Client::connect(address, "secret").await.unwrap();
    assert_eq!(client.ask("select count(*) from payments").await, "6000\nSELECT 1");

    // Prepared, and bound anew.
    client.parse("select count(*) from payments").await;
    assert_eq!(client.synced().await, "");
    see(Some(&GRANTS[..]));
    client.bind(&[], false).await;
    client.execute(0).await;
    assert_eq!(client.synced().await, format!("{SHOWN}\nSELECT 1"), "it is understood anew");
    assert_eq!(client.ask("select count(*) from payments").await, format!("{SHOWN}\nSELECT 1"));
    see(Some(&["decisions"][..]));
    client.bind(&[], false).await;
    client.execute(0).await;
    assert_eq!(client.synced().await, "error 42P01");
    // Other columns than the client was told of.
    see(None);
    client.parse("select * from payments").await;
    assert_eq!(client.synced().await, "");
    see(Some(&GRANTS[..]));
    client.bind(&[], false).await;
    assert_eq!(client.synced().await, "error 0A000");

    // Bound, with rows left.
    see(None);
    assert_eq!(client.ask("begin").await, "BEGIN\nin T");
    client.parse("select payment_id from payments order by _offset").await;
    client.bind(&[], false).await;
    client.execute(1).await;
    assert_eq!(client.synced().await, "p0\nsuspended\nin T");
    see(Some(&GRANTS[..]));
    client.execute(1).await;
    assert_eq!(client.synced().await, "error 0A000\nin E");
    assert_eq!(client.ask("rollback").await, "ROLLBACK");
    // And when the change is taken back: the rows are gone, which is not their end.
    see(None);
    assert_eq!(client.ask("begin").await, "BEGIN\nin T");
    client.bind(&[], false).await;
    client.execute(1).await;
    assert_eq!(client.synced().await, "p0\nsuspended\nin T");
    see(Some(&GRANTS[..]));
    assert_eq!(client.ask("select 1").await, "1\nSELECT 1\nin T");
    see(None);
    client.execute(1).await;
    assert_eq!(client.synced().await, "error 0A000\nin E");
    assert_eq!(client.ask("rollback").await, "ROLLBACK");

    // Cursors, in a transaction and beyond.
    see(None);
    let declare = "begin; declare c cursor for select payment_id from payments order by _offset; declare h cursor with hold for select 1 from payments; fetch c";
    assert_eq!(client.ask(declare).await, "BEGIN\nDECLARE CURSOR\nDECLARE CURSOR\np0\nFETCH 1\nin T");
    see(Some(&GRANTS[..]));
    assert_eq!(client.ask("fetch c").await, "error 34000\nin E");
    assert_eq!(client.ask("rollback").await, "ROLLBACK");
    assert_eq!(client.ask("fetch h").await, "error 34000");

    // COPY and the rest of the protocol see the same.
    let copied = client.ask("copy (select count(*) from payments) to stdout").await;
    assert_eq!(copied, "COPY 1");
    assert_eq!(client.ask("copy (select amount from payments) to stdout").await, "error 42703");
    assert_eq!(client.ask("copy labels to stdout").await, "error 42P01");
    assert_eq!(client.ask("begin; declare c cursor for select amount from payments").await, "BEGIN\nerror 42703\nin E");
    assert_eq!(
        client.ask("rollback; set role kilter; set session authorization kilter; reset all; discard all").await,
        "ROLLBACK\nSET\nSET\nRESET\nDISCARD ALL"
    );
    assert_eq!(client.ask("select count(*) from payments").await, format!("{SHOWN}\nSELECT 1"));
    see(None);
    assert_eq!(client.ask("select count(*) from payments").await, "6000\nSELECT 1");
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

const COLUMNS: [&str; 6] = ["payment_id", "card", "at", "amount", "_offset", "_time"];
const CONDITIONS: &[&str] = &[
    "card = 3",
    "amount < 50",
    "amount >= 900 OR card IN (1, 2)",
    "_time > '2023-11-16' AND card <> 0",
    "at BETWEEN '2023-11-15 12:00:00' AND '2023-11-17'",
    "payment_id LIKE 'p1%' AND NOT (card = 4)",
    "_offset < 4100",
    "_offset IN (1, 17, 4095, 4096, 5999)",
    "CASE WHEN card = 1 THEN amount > 10 ELSE amount > 90 END",
    "card = 1 AND card = 2",
    "nullif(card, 3) > 1",
    "date_part('hour', at) < 6",
];
/// With the columns that each needs.
const QUESTIONS: &[(&str, &str)] = &[
    ("", "select count(*) from payments"),
    ("card", "select card, count(*) from payments group by card order by card"),
    ("amount", "select sum(amount), min(amount), max(amount), avg(amount), count(distinct amount) from payments"),
    ("payment_id", "select payment_id from payments order by payment_id desc limit 7"),
    ("_time payment_id", "select payment_id from payments order by _time desc limit 5"),
    ("_time", "select date_trunc('day', _time), count(*) from payments where _time > '2023-11-15 07:00:00' group by 1 order by 1"),
    ("_offset", "select min(_offset), max(_offset), sum(_offset) from payments where _offset between 10 and 5000"),
    ("card _offset", "select a.card, count(*) from payments a join payments b on a._offset = b._offset + 1 group by 1 order by 1"),
    ("card amount", "select card, amount from payments where amount > (select avg(amount) from payments) order by card, amount, 1 limit 9"),
    ("at card", "select card, max(at) from payments where card in (1, 3) group by card having count(*) > 1 order by 1"),
    ("card", "select distinct card from payments where card > 0 order by 1 offset 1"),
    ("_offset card", "select card, lag(_offset) over (partition by card order by _offset) from payments order by _offset limit 6"),
    ("amount card", "select count(*) from payments where 100 / (amount - 7) > 1 or card = 1"),
    ("payment_id", "select count(*) from (select payment_id from payments union all select payment_id from payments) x"),
    ("", "select count(*) from (select 1 from payments limit 100) x"),
    (
        "_offset",
        "select string_agg(cast(_offset as text), ',' order by _offset) from (select _offset from payments order by _offset limit 5) x",
    ),
];

/// For grants of any kind: whoever has one is answered as somebody who sees everything is over nothing but its rows and columns.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_to_its_owner_what_a_question_over_it_is_to_all_others() {
    let shop = shop::open().await;
    for seed in 0..40 {
        let mut dice = Dice(seed * 7919 + 1);
        for _ in 0..3 {
            dice.below(2);
        }
        let mut columns: Vec<&str> = COLUMNS.into_iter().filter(|_| dice.below(3) > 0).collect();
        if columns.is_empty() {
            columns.push("card");
        }
        let conditions: Vec<&str> = (0..dice.below(3)).map(|_| CONDITIONS[dice.below(CONDITIONS.len())]).collect();
        let list = columns.join(", ");
        let grants: Vec<String> = match conditions.is_empty() {
            true => vec![format!("events.payments ({list})")],
            false => conditions.iter().map(|condition| format!("events.payments ({list}) WHERE {condition}")).collect(),
        };
        let all = conditions.iter().map(|condition| format!("({condition})")).collect::<Vec<_>>().join(" OR ");
        let all = if all.is_empty() { "true".to_owned() } else { all };
        let part = Rights::Granted(grants.clone().into());
        for (needs, question) in QUESTIONS {
            let answer = shop.ask_with(&part, question).await;
            if needs.split_whitespace().any(|column| !columns.contains(&column)) {
                assert_eq!(answer.as_ref().map_err(|e| e.code), Err("42703"), "seed {seed}, {grants:?}: {question}: {answer:?}");
                continue;
            }
            let whole = format!("with payments as (select {list} from events.payments where {all}) {question}");
            let expected = shop.ask(&whole).await;
            let code = |answer: Result<String, SqlError>| answer.map_err(|e| e.code);
            assert_eq!(code(answer), code(expected), "seed {seed}, {grants:?}: {question}");
        }
    }
}
