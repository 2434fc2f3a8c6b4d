//! Decisions by columns and aggregates by pieces: the same answers as by the log, record by record.

use std::fs;
use std::path::PathBuf;

use crate::shop::{self, Shop};

/// More than one piece of the decision log, with a rest of some stretches and some records.
const MANY: i64 = 65_536 + 2 * 4096 + 100;

/// What boards ask. `{of}` is the table with a condition.
const QUESTIONS: &[&str] = &[
    "select count(*) from {of}",
    "select outcome, count(*), min(event_offset), max(event_offset) from {of} group by 1 order by 1",
    "select date_trunc('day', time), outcome, count(*) from {of} group by 1, 2 order by 1, 2",
    "select count(*) filter (where outcome = 'review'), sum(case when rule is null then 1 else 0 end) from {of}",
    "select extract(hour from time), count(distinct event_offset % 7) from {of} group by 1 order by 1",
    "select min(time), max(time), avg(event_offset) from {of}",
    "select decision, model, definitions, count(*) from {of} group by 1, 2, 3",
    "select event_offset % 10007, count(*) from {of} group by 1 order by 2 desc, 1 limit 5",
    "select decision_id, time, event_offset from {of} order by time desc limit 5",
    "select decision_id, outcome from {of} order by event_offset limit 3",
    "select count(*) from {of} and event_offset > (select avg(event_offset) from decisions)",
    "select count(*) from {of} and event_offset > (select max(event_offset) - 10 from decisions)",
    "select max(n) from (select date_trunc('hour', time) as t, count(*) as n from {of} group by 1)",
    "select outcome from {of} group by 1 having count(*) > 100 order by 1",
    "select distinct outcome from {of} order by 1 limit 1",
];
const CONDITIONS: &[&str] = &[
    "true",
    "time >= '2023-12-01' and time < '2023-12-20 10:17:00'",
    "time > '2023-12-25 00:00:00.5'",
    "outcome = 'review' and time < '2024-01-03'",
    "time between '2023-12-29 22:00:00' and '2023-12-30 02:00:00'",
    "time > '2030-01-01'",
    "event_offset in (5, 65535, 65536, 70000)",
];

impl Shop {
    fn columns(&self) -> Vec<PathBuf> {
        let Ok(files) = fs::read_dir(self.service.data.dir.join("columns")) else { return Vec::new() };
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Questions with some of the conditions each, twice: with what is kept, and with all reasons, which only the log has.
    async fn compare(&self, conditions: usize) {
        for (i, question) in QUESTIONS.iter().enumerate() {
            for condition in (0..conditions).map(|n| CONDITIONS[(i + 2 * n) % CONDITIONS.len()]) {
                let fast = question.replace("{of}", &format!("decisions where {condition}"));
                let plain =
                    question.replace("{of}", &format!("decisions where reasons || '' <> '' and cast(time as text) <> '' and {condition}"));
                let expected = self.ask(&plain).await.unwrap();
                for _ in 0..2 {
                    self.check(&fast, &expected).await;
                }
            }
        }
    }

    async fn ask_all(&self, condition: &str) {
        for question in QUESTIONS {
            self.ask(&question.replace("{of}", &format!("decisions where {condition}"))).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_and_columns_answer_as_the_log_does() {
    let shop = shop::empty().await;
    // Nothing yet: an aggregate without groups has a row nevertheless.
    shop.check("select count(*), max(time) from decisions", "0,").await;
    shop.pay(0..MANY).await;
    shop.compare(3).await;
    assert_eq!(shop.columns().len(), 1);
    // Ranges that reach over the same pieces are one question.
    shop.ask_all("time > '2020-01-01'").await;
    let kept = shop.engine.kept_states();
    assert!(kept > QUESTIONS.len(), "{kept}");
    shop.ask_all("time between '2021-01-01' and '2029-01-01 00:00:00.123456789'").await;
    assert_eq!(shop.engine.kept_states(), kept, "what was computed is computed again");
    // What comes later counts, and so does the rest that is a piece now.
    shop.pay(MANY..MANY + 5000).await;
    shop.compare(1).await;
    // Events go by pieces as well.
    for condition in ["true", "_time < '2023-12-20 10:17:00'"] {
        let expected = shop
            .ask(&format!("select card, count(*), sum(amount) from payments where _id || '' <> '' and {condition} group by 1 order by 1"))
            .await
            .unwrap();
        for _ in 0..2 {
            shop.check(&format!("select card, count(*), sum(amount) from payments where {condition} group by 1 order by 1"), &expected)
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_columns_can_go_and_cannot_lie() {
    let shop = shop::empty().await;
    shop.pay(0..65_536 + 10).await;
    let question = "select count(*), sum(event_offset), count(distinct outcome) from decisions where score is null";
    let answer = shop.ask(question).await.unwrap();
    let [file] = &shop.columns()[..] else { panic!("{:?}", shop.columns()) };
    let whole = fs::read(file).unwrap();
    // Cut short, of another log by its own words, and gone: each is found out by an engine that comes new to it, and made anew.
    let mut of_another = whole.clone();
    let words = of_another.windows(17).position(|bytes| bytes == b"kilter.decisions.").unwrap();
    of_another[words + 30] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &of_another, b""] {
        fs::write(file, damaged).unwrap();
        let again = shop::Shop { engine: shop.another_engine(), service: shop.service.clone(), _dir: tempfile::tempdir().unwrap() };
        again.check(question, &answer).await;
        assert_eq!(fs::read(file).unwrap(), whole);
    }
    // Damaged behind what it says of itself: the engine that knows it is not stopped by that.
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[4..middle].fill(0xff);
    fs::write(file, &torn).unwrap();
    shop.check("select count(*), sum(event_offset + 0), count(distinct outcome) from decisions where score is null", &answer).await;
    shop.check("select count(*), sum(event_offset + 0), count(distinct outcome) from decisions where score is null", &answer).await;
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    // A folder that cannot be made costs time, not the answer.
    fs::write(file.parent().unwrap(), "in the way").unwrap();
    let again = shop::Shop { engine: shop.another_engine(), service: shop.service.clone(), _dir: tempfile::tempdir().unwrap() };
    again.check(question, &answer).await;
}
