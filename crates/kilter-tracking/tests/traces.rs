//! Traces through the store's public face: spans in any order become a trace, a plain look at everything finds what searches find, and what is said of a
//! trace stands until something stands in its place.

use crate::common;
use kilter_tracking::otel::{Any, AnyValue, KeyValue, Sent, Span, SpanStatus};
use kilter_tracking::{
    Aggregation, Assessment, AssessmentChange, AssessmentKind, ErrorCode, Logged, MetricsOf, NewRun, OldTraces, Pair, Query, Stage,
    TraceInfo, TraceMetrics, TraceState, Tracking,
};
use serde_json::json;

async fn open() -> (tempfile::TempDir, Tracking) {
    let dir = tempfile::tempdir().unwrap();
    let tracking = common::open(dir.path()).await.unwrap();
    (dir, tracking)
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.into(), value: value.into() }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue::new(key, Any::Text(value.into()))
}

/// Milliseconds as a span has them.
fn millis(at: u64) -> u64 {
    at * 1_000_000
}

fn span(trace: u8, id: u8, parent: u8, name: &str, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: name.into(),
        start_time_unix_nano: millis(1000 + u64::from(id)),
        end_time_unix_nano: millis(1100 + u64::from(id)),
        attributes,
        ..Span::default()
    }
}

fn id(trace: u8) -> String {
    format!("tr-{}", format!("{trace:02x}").repeat(16))
}

async fn try_log(tracking: &Tracking, spans: Vec<Span>) -> Logged {
    tracking.log_spans(0, vec![Sent { resource: Vec::new(), spans }], None).await.unwrap()
}

async fn log(tracking: &Tracking, spans: Vec<Span>) {
    let count = spans.len();
    assert_eq!(try_log(tracking, spans).await, Logged { stored: count, refused: 0, why: None });
}

fn value<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    pairs.iter().find(|p| p.key == key).map(|p| p.value.as_str())
}

async fn found(tracking: &Tracking, filter: &str) -> Vec<String> {
    let query = Query { filter: filter.into(), max_results: 100, order_by: vec!["request_id ASC".into()], ..Query::default() };
    tracking.search_traces(&[0], &query).await.unwrap_or_else(|e| panic!("{filter}: {e}")).items.into_iter().map(|t| t.id).collect()
}

#[tokio::test]
async fn spans_in_any_order_become_a_trace_that_is_there_after_opening_again() {
    let (dir, tracking) = open().await;
    let usage =
        |n: i64| text("mlflow.chat.tokenUsage", &format!(r#"{{"input_tokens": {n}, "output_tokens": 1, "total_tokens": {}}}"#, n + 1));
    log(&tracking, vec![span(1, 2, 1, "child", vec![usage(4)])]).await;
    let info = tracking.trace_info(&id(1)).await.unwrap();
    assert_eq!((info.state, info.start_time, info.duration), (TraceState::InProgress, 1002, Some(100)));
    let root = vec![
        text("mlflow.spanInputs", r#"{"q": 1}"#),
        text("mlflow.spanOutputs", "a"),
        text("session.id", "s"),
        text("mlflow.traceTag.u", "me"),
    ];
    log(&tracking, vec![span(1, 1, 0, "root", root), span(1, 3, 1, "other", vec![usage(7)])]).await;
    tracking.close().await;
    let tracking = common::open(dir.path()).await.unwrap();
    let trace = tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap();
    let info = &trace.info;
    assert_eq!((info.state, info.start_time, info.duration), (TraceState::Ok, 1001, Some(102)));
    assert_eq!((info.request_preview.as_deref(), info.response_preview.as_deref()), (Some(r#"{"q": 1}"#), Some(r#""a""#)));
    assert_eq!(value(&info.tags, "mlflow.traceName"), Some("root"));
    assert_eq!(value(&info.tags, "u"), Some("me"));
    assert_eq!(value(&info.metadata, "mlflow.trace.session"), Some("s"));
    let tokens = r#"{"input_tokens": 11, "output_tokens": 2, "total_tokens": 13}"#;
    assert_eq!(value(&info.metadata, "mlflow.trace.tokenUsage"), Some(tokens));
    assert_eq!(trace.spans.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["root", "child", "other"]);
    let inputs = trace.spans[0].attributes.iter().find(|a| a.key == "mlflow.spanInputs").unwrap().value.clone().unwrap();
    assert_eq!(inputs, AnyValue::of_json(&json!({"q": 1})).unwrap());
}

#[tokio::test]
async fn what_the_client_says_of_a_trace_stands_whatever_spans_come_later() {
    let (_dir, tracking) = open().await;
    log(&tracking, vec![span(1, 1, 0, "root", vec![])]).await;
    let said = TraceInfo {
        id: id(1),
        state: TraceState::Error,
        start_time: 5,
        duration: Some(7),
        request_preview: Some("asked".into()),
        tags: vec![pair("mlflow.traceName", "named"), pair("k", "v")],
        metadata: vec![pair("mlflow.trace.tokenUsage", "{}")],
        ..TraceInfo::default()
    };
    tracking.start_trace(said.clone()).await.unwrap();
    let usage = text("mlflow.chat.tokenUsage", r#"{"input_tokens": 1}"#);
    log(&tracking, vec![span(1, 9, 1, "late", vec![usage]), span(1, 1, 0, "root again", vec![])]).await;
    let trace = tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap();
    let info = &trace.info;
    assert_eq!((info.state, info.start_time, info.duration), (TraceState::Error, 5, Some(7)));
    assert_eq!((value(&info.tags, "mlflow.traceName"), value(&info.tags, "k")), (Some("named"), Some("v")));
    assert_eq!(value(&info.metadata, "mlflow.trace.tokenUsage"), Some("{}"));
    // A span that comes again stands in place of itself.
    assert_eq!(trace.spans.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["root again", "late"]);
    let nowhere = TraceInfo { experiment: 99, ..said };
    assert_eq!(tracking.start_trace(nowhere).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn of_a_span_that_is_sent_twice_at_once_the_last_counts() {
    let (_dir, tracking) = open().await;
    // As many as PostgreSQL is given by one statement, which must not have the same row twice.
    let others = (2..=9).map(|id| span(1, id, 1, "other", vec![]));
    let spans = [span(1, 1, 0, "first", vec![])].into_iter().chain(others).chain([span(1, 1, 0, "last", vec![])]);
    log(&tracking, spans.collect()).await;
    let trace = tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap();
    let names: Vec<_> = trace.spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!((names[0], names.len()), ("last", 9));
}

#[tokio::test]
async fn searches_find_what_a_look_at_everything_finds() {
    let (_dir, tracking) = open().await;
    let run = tracking.create_run(NewRun::default()).await.unwrap().info.id;
    for trace in 1..=6 {
        let tool = vec![text("mlflow.spanType", "TOOL"), text("model", if trace % 2 == 0 { "gpt-a" } else { "gpt-b" })];
        let mut child = span(trace, 2, 1, &format!("step {trace}"), tool);
        child.status = Some(SpanStatus { message: String::new(), code: if trace == 3 { 2 } else { 1 } });
        let root = vec![text("mlflow.spanType", "AGENT"), text("mlflow.spanInputs", &format!(r#"{{"q": "Word{trace}\n%"}}"#))];
        log(&tracking, vec![span(trace, 1, 0, "root", root), child]).await;
        tracking.set_trace_tag(id(trace), pair("k", &format!("v{trace}"))).await.unwrap();
    }
    tracking.set_trace_tag(id(6), pair("only", "x")).await.unwrap();
    tracking.link_traces_to_run(vec![id(2), id(4), "tr-none".into()], run.clone()).await.unwrap();
    tracking.link_prompts(id(5), vec!["p/1".into()]).await.unwrap();
    let feedback = |trace, value| Assessment { trace: id(trace), name: "ok".into(), value, is_valid: true, ..Assessment::default() };
    tracking.create_assessment(feedback(1, json!(true))).await.unwrap();
    tracking.create_assessment(feedback(2, json!(0.5))).await.unwrap();
    tracking.create_assessment(feedback(3, json!("yes"))).await.unwrap();
    let of_run = format!("attributes.run_id = '{run}'");
    let checks: [(&str, &[u8]); 27] = [
        ("", &[1, 2, 3, 4, 5, 6]),
        ("tags.k = 'v2'", &[2]),
        ("tag.k != 'v2' AND tags.k RLIKE '^v[1-3]$'", &[1, 3]),
        ("tags.only IS NOT NULL", &[6]),
        ("tags.only IS NULL AND tags.k LIKE 'w%'", &[]),
        ("trace.status = 'OK' AND name = 'root' AND timestamp_ms > 1000 AND execution_time < 102", &[1, 2, 3, 4, 5, 6]),
        ("end_time_ms > 5000", &[]),
        ("span.status = 'ERROR'", &[3]),
        ("span.name LIKE 'step %' AND span.type = 'TOOL'", &[1, 2, 3, 4, 5, 6]),
        ("span.name = 'root' AND span.type = 'TOOL'", &[]),
        ("span.name IN ('step 1', 'step 4')", &[1, 4]),
        ("span.name RLIKE '[56]$'", &[5, 6]),
        ("span.attributes.model = 'gpt-a'", &[2, 4, 6]),
        ("span.attributes.`model` != 'gpt-a' AND span.name = 'step 3'", &[3]),
        ("span.attributes.model = 'gpt-a' AND span.name = 'root'", &[]),
        ("span.content LIKE '%Word3%'", &[3]),
        ("trace.text ILIKE '%word4%' AND tags.k = 'v4'", &[4]),
        ("trace.text LIKE '%word4%'", &[]),
        (&of_run, &[2, 4]),
        ("prompt = 'p/1'", &[5]),
        ("feedback.ok = 'true'", &[1]),
        ("feedback.ok = 'yes'", &[3]),
        ("feedback.ok > 0.2", &[2]),
        ("feedback.ok IS NULL", &[4, 5, 6]),
        ("expectation.ok IS NOT NULL", &[]),
        ("issue.id = 'x'", &[]),
        ("metadata.x IS NULL AND request_id = 'tr-none'", &[]),
    ];
    for (filter, want) in checks {
        assert_eq!(found(&tracking, filter).await, want.iter().map(|t| id(*t)).collect::<Vec<_>>(), "{filter}");
    }
    for bad in [
        "nope.x = 1",
        "span.nope = 'x'",
        "span.content = 'x'",
        "tags.k RLIKE '('",
        "feedback.ok > 'a'",
        "prompt != 'a/1'",
        "issue.name = 'x'",
    ] {
        let query = Query { filter: bad.into(), max_results: 1, ..Query::default() };
        assert_eq!(tracking.search_traces(&[0], &query).await.unwrap_err().code, ErrorCode::InvalidParameterValue, "{bad}");
    }
}

#[tokio::test]
async fn pages_are_walked_to_the_end_in_either_way_of_searching() {
    let (_dir, tracking) = open().await;
    for trace in 1..=250 {
        let name = if trace % 3 == 0 { "fizz" } else { "none" };
        log(&tracking, vec![span(trace, 1, 0, name, vec![text("a", name)])]).await;
    }
    for filter in ["span.name = 'fizz'", "span.attributes.a = 'fizz'", "name RLIKE 'fi'"] {
        let (mut all, mut page_token) = (Vec::new(), None);
        loop {
            let query = Query { filter: filter.into(), max_results: 10, page_token, ..Query::default() };
            let page = tracking.search_traces(&[0], &query).await.unwrap();
            all.extend(page.items.into_iter().map(|t| t.id));
            page_token = page.next;
            if page_token.is_none() {
                break;
            }
        }
        let twice = all.len();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), twice), (83, 83), "{filter}");
    }
}

#[tokio::test]
async fn an_assessment_stands_until_another_stands_in_its_place() {
    let (_dir, tracking) = open().await;
    log(&tracking, vec![span(1, 1, 0, "root", vec![])]).await;
    let run = tracking.create_run(NewRun::default()).await.unwrap().info.id;
    let new = |name: &str| Assessment { trace: id(1), name: name.into(), value: json!("no"), is_valid: true, ..Assessment::default() };
    let first = tracking.create_assessment(new("ok")).await.unwrap();
    let second = tracking.create_assessment(Assessment { overrides: Some(first.id.clone()), ..new("ok") }).await.unwrap();
    assert!(!tracking.assessment(&id(1), &first.id).await.unwrap().is_valid);
    tracking.delete_assessment(id(1), second.id.clone()).await.unwrap();
    tracking.delete_assessment(id(1), second.id).await.unwrap();
    assert!(tracking.assessment(&id(1), &first.id).await.unwrap().is_valid);
    let change = AssessmentChange {
        value: Some((AssessmentKind::Feedback, json!(1), None)),
        metadata: [("mlflow.assessment.sourceRunId".to_string(), run.clone())].into(),
        ..AssessmentChange::default()
    };
    let changed = tracking.update_assessment(&id(1), &first.id, change.clone()).await.unwrap();
    assert_eq!((changed.value, changed.name.as_str()), (json!(1), "ok"));
    let other = AssessmentChange { value: Some((AssessmentKind::Expectation, json!(1), None)), ..AssessmentChange::default() };
    assert_eq!(tracking.update_assessment(&id(1), &first.id, other).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    let missing = Assessment { overrides: Some("a-none".into()), ..new("x") };
    assert_eq!(tracking.create_assessment(missing).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(
        tracking.create_assessment(Assessment { trace: "tr-none".into(), ..new("x") }).await.unwrap_err().code,
        ErrorCode::ResourceDoesNotExist
    );
    // A run takes along what it said.
    tracking.set_run_stage(run, Stage::Deleted).await.unwrap();
    assert_eq!(tracking.trace_info(&id(1)).await.unwrap().assessments, []);
}

#[tokio::test]
async fn deleted_traces_leave_nothing() {
    let (_dir, tracking) = open().await;
    for trace in 1..=4 {
        log(&tracking, vec![Span { start_time_unix_nano: millis(u64::from(trace)), ..span(trace, 1, 0, "root", vec![]) }]).await;
    }
    assert_eq!(tracking.delete_traces(0, OldTraces::Named(vec![id(4), "tr-none".into()])).await.unwrap(), 1);
    assert_eq!(tracking.delete_traces(1, OldTraces::Named(vec![id(3)])).await.unwrap(), 0);
    assert_eq!(tracking.delete_traces(0, OldTraces::Before(2, Some(1))).await.unwrap(), 1);
    assert_eq!(found(&tracking, "").await, [id(2), id(3)]);
    assert_eq!(tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(tracking.set_trace_tag(id(1), pair("a", "b")).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(tracking.delete_trace_tag(id(2), "none".into()).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn a_span_that_is_none_is_left_out_and_all_beside_it_is_stored() {
    let (_dir, tracking) = open().await;
    let nameless = Span { span_id: Vec::new(), ..span(1, 1, 0, "x", vec![]) };
    let nowhere = Span { trace_id: vec![1; 17], ..span(1, 1, 0, "x", vec![]) };
    let logged = try_log(&tracking, vec![nameless, span(2, 1, 0, "good", vec![]), nowhere]).await;
    assert_eq!(logged, Logged { stored: 1, refused: 2, why: Some("a span has no id of 8 bytes".into()) });
    assert_eq!(found(&tracking, "").await, [id(2)]);
    let missing = tracking.log_spans(99, vec![Sent { resource: Vec::new(), spans: vec![span(3, 1, 0, "x", vec![])] }], None).await;
    assert_eq!(missing.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    log(&tracking, vec![span(1, 1, 0, "deep", vec![text("a", &deep.to_string())])]).await;
    assert_eq!(
        tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap().spans[0].attributes[0],
        text("a", &deep.to_string())
    );
}

#[tokio::test]
async fn a_trace_that_is_full_takes_no_more_and_others_do() {
    let (_dir, tracking) = open().await;
    let large = || vec![text("a", &"x".repeat(33 << 20))];
    log(&tracking, vec![span(1, 1, 0, "root", large())]).await;
    let logged = try_log(&tracking, vec![span(1, 2, 1, "more", large()), span(2, 1, 0, "other", vec![])]).await;
    assert_eq!((logged.stored, logged.refused), (1, 1));
    assert!(logged.why.unwrap().starts_with(&format!("trace '{}' would have been sent more than", id(1))));
    assert_eq!(
        (
            tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap().spans.len(),
            tracking.trace(&id(2), &tracking.place().await.unwrap()).await.unwrap().spans.len()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_request_has_so_many_traces_and_each_so_much_of_its_sender() {
    let (_dir, tracking) = open().await;
    let spans = (0..1001_u128).map(|n| Span { trace_id: (n + 1).to_be_bytes().to_vec(), ..span(1, 1, 0, "root", vec![]) });
    let many = (0..300).map(|n| text(&format!("k{n:03}"), "v")).collect();
    let logged = tracking.log_spans(0, vec![Sent { resource: many, spans: spans.collect() }], None).await.unwrap();
    assert_eq!((logged.stored, logged.refused), (1000, 1));
    assert!(logged.why.unwrap().contains("at most 1000 traces"));
    let tags = |info: TraceInfo| info.tags.into_iter().filter(|t| !t.key.starts_with("mlflow.")).map(|t| t.key).collect::<Vec<_>>();
    let last = tracking.trace_info(&format!("tr-{:032x}", 1000)).await.unwrap();
    assert_eq!(tags(last), (0..128).map(|n| format!("k{n:03}")).collect::<Vec<_>>());
    // A long value does not take the room of those after it.
    let long =
        vec![text("a", "v"), text("b", &"x".repeat(7000)), text("c", &"x".repeat(7000)), text("d", &"x".repeat(7000)), text("e", "v")];
    tracking.log_spans(0, vec![Sent { resource: long, spans: vec![span(9, 1, 0, "root", vec![])] }], None).await.unwrap();
    assert_eq!(tags(tracking.trace_info(&id(9)).await.unwrap()), ["a", "b", "c", "e"]);
}

#[tokio::test]
async fn what_is_known_of_a_trace_is_bounded() {
    let (_dir, tracking) = open().await;
    let named = |n: usize, value: &str| (0..n).map(|at| pair(&format!("k{at}"), value)).collect::<Vec<_>>();
    let new = |tags: Vec<Pair>| TraceInfo { id: id(1), tags, ..TraceInfo::default() };
    for bad in [
        new(named(1001, "")),
        new(named(200, &"x".repeat(8000))),
        TraceInfo { metadata: named(1001, ""), ..new(vec![]) },
        TraceInfo { client_request_id: Some("x".repeat(251)), ..new(vec![]) },
    ] {
        assert_eq!(tracking.start_trace(bad).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    }
    let long = TraceInfo { request_preview: Some("ä".repeat(20_000)), ..new(named(990, "")) };
    assert_eq!(tracking.start_trace(long).await.unwrap().request_preview.unwrap().chars().count(), 10_000);
    for n in 0..100 {
        let _ = tracking.set_trace_tag(id(1), pair(&format!("more{n}"), "v")).await;
    }
    assert_eq!(tracking.trace_info(&id(1)).await.unwrap().tags.len(), 1000);
    tracking.set_trace_tag(id(1), pair("k0", "again")).await.unwrap();
    let more = span(1, 1, 0, "root", vec![text("mlflow.traceTag.yet", "v")]);
    let logged = try_log(&tracking, vec![more]).await;
    assert_eq!((logged.stored, logged.refused), (1, 0));
    assert!(logged.why.unwrap().starts_with(&format!("tags of trace '{}' are left out", id(1))));
}

#[tokio::test]
async fn a_page_of_traces_that_say_much_ends_early_and_goes_on() {
    let (_dir, tracking) = open().await;
    let named: Vec<Pair> = (0..125).map(|at| pair(&format!("k{at}"), &"x".repeat(8000))).collect();
    for trace in 1..=20 {
        let info = TraceInfo { id: id(trace), tags: named.clone(), metadata: named.clone(), ..TraceInfo::default() };
        tracking.start_trace(info).await.unwrap();
    }
    let all: Vec<String> = (1..=20).map(id).collect();
    assert_eq!(tracking.trace_infos(&all).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.trace_infos(&all[..10]).await.unwrap().len(), 10);
    for filter in ["", "tags.k1 RLIKE '^x'"] {
        let (mut got, mut page_token, mut pages) = (Vec::new(), None, 0);
        loop {
            let order_by = vec!["request_id ASC".into()];
            let query = Query { filter: filter.into(), max_results: 100, page_token, order_by, ..Query::default() };
            let page = tracking.search_traces(&[0], &query).await.unwrap();
            got.extend(page.items.into_iter().map(|t| t.id));
            (page_token, pages) = (page.next, pages + 1);
            if page_token.is_none() {
                break;
            }
        }
        assert_eq!((&got, pages), (&all, 2), "{filter}");
    }
}

#[tokio::test]
async fn a_trace_of_many_spans_is_summed_up_and_deleted_whole() {
    let (_dir, tracking) = open().await;
    let usage = text("mlflow.chat.tokenUsage", r#"{"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "more": 9}"#);
    let child = |n: u64| Span { span_id: (n + 2).to_be_bytes().to_vec(), ..span(1, 2, 1, "child", vec![usage.clone()]) };
    let spans: Vec<Span> = std::iter::once(span(1, 1, 0, "root", vec![])).chain((0..11_000).map(child)).collect();
    log(&tracking, spans).await;
    let info = tracking.trace_info(&id(1)).await.unwrap();
    let tokens = r#"{"input_tokens": 11000, "output_tokens": 22000, "total_tokens": 33000}"#;
    assert_eq!((info.state, value(&info.metadata, "mlflow.trace.tokenUsage")), (TraceState::Ok, Some(tokens)));
    assert_eq!(tracking.delete_traces(0, OldTraces::Named(vec![id(1)])).await.unwrap(), 1);
    log(&tracking, vec![span(1, 7, 1, "anew", vec![])]).await;
    assert_eq!(tracking.trace(&id(1), &tracking.place().await.unwrap()).await.unwrap().spans.len(), 1);
}

#[tokio::test]
async fn an_id_of_an_assessment_is_given_once() {
    let (_dir, tracking) = open().await;
    log(&tracking, vec![span(1, 1, 0, "root", vec![]), span(2, 1, 0, "root", vec![])]).await;
    let new = |trace, id_: &str, value| Assessment {
        id: id_.into(),
        trace: id(trace),
        name: "n".into(),
        value,
        is_valid: true,
        ..Assessment::default()
    };
    tracking.create_assessment(new(1, "a-1", json!(1))).await.unwrap();
    for again in [new(1, "a-1", json!(2)), new(2, "a-1", json!(2)), Assessment { overrides: Some("a-1".into()), ..new(1, "a-1", json!(2)) }]
    {
        assert!(tracking.create_assessment(again).await.is_err());
    }
    let first = tracking.assessment(&id(1), "a-1").await.unwrap();
    assert_eq!((first.value, first.is_valid), (json!(1), true));
    let again = |trace: u8, assessments| TraceInfo { id: id(trace), assessments, ..TraceInfo::default() };
    // With its trace it may come again, changed.
    let overriding = Assessment { overrides: Some("a-1".into()), ..new(1, "a-2", json!(3)) };
    tracking.start_trace(again(1, vec![new(1, "a-1", json!(2)), overriding])).await.unwrap();
    let first = tracking.assessment(&id(1), "a-1").await.unwrap();
    assert_eq!((first.value, first.is_valid), (json!(2), false));
    assert_eq!(tracking.start_trace(again(2, vec![new(2, "a-1", json!(4))])).await.unwrap_err().code, ErrorCode::ResourceAlreadyExists);
    // What two stand in the place of is valid again once both are gone.
    let run = tracking.create_run(NewRun::default()).await.unwrap().info.id;
    let metadata = [("mlflow.assessment.sourceRunId".to_string(), run.clone())].into();
    tracking.create_assessment(Assessment { overrides: Some("a-1".into()), metadata, ..new(1, "a-3", json!(5)) }).await.unwrap();
    tracking.delete_assessment(id(1), "a-2".into()).await.unwrap();
    assert!(!tracking.assessment(&id(1), "a-1").await.unwrap().is_valid);
    tracking.set_run_stage(run, Stage::Deleted).await.unwrap();
    assert!(tracking.assessment(&id(1), "a-1").await.unwrap().is_valid);
}

#[tokio::test]
async fn assessments_of_a_trace_are_bounded_however_they_come() {
    let (_dir, tracking) = open().await;
    let new = |n: usize| Assessment { id: format!("a-{n}"), trace: id(1), name: "n".into(), is_valid: true, ..Assessment::default() };
    let with = |from: usize, to: usize| TraceInfo { id: id(1), assessments: (from..to).map(new).collect(), ..TraceInfo::default() };
    tracking.start_trace(with(0, 600)).await.unwrap();
    assert_eq!(tracking.start_trace(with(600, 1001)).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    // Those that come again count once.
    tracking.start_trace(with(0, 1000)).await.unwrap();
    assert_eq!(tracking.create_assessment(new(1000)).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.trace_info(&id(1)).await.unwrap().assessments.len(), 1000);
    let long = Assessment { rationale: Some("x".repeat(1 << 20)), trace: id(2), ..new(2000) };
    log(&tracking, vec![span(2, 1, 0, "root", vec![])]).await;
    assert_eq!(tracking.create_assessment(long).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
}

#[tokio::test]
async fn a_search_for_what_takes_too_much_is_refused_and_a_long_text_is_looked_at_in_its_beginning() {
    let (_dir, tracking) = open().await;
    let long = format!("first {} last", "x".repeat(1 << 20));
    log(&tracking, vec![span(1, 1, 0, "root", vec![text("a", &long)])]).await;
    for (filter, want) in [
        ("span.attributes.a RLIKE 'first'", vec![id(1)]),
        ("span.attributes.a LIKE 'first%%%x%'", vec![id(1)]),
        ("span.content LIKE '%first%'", vec![id(1)]),
        ("span.attributes.a RLIKE 'last'", vec![]),
        (r"span.name RLIKE '(?i)^\w{2,10}$' AND name RLIKE '^\p{L}+\b'", vec![id(1)]),
    ] {
        assert_eq!(found(&tracking, filter).await, want, "{filter}");
    }
    for much in [r"span.name RLIKE '(\w{50}){50}'", r"tags.a RLIKE '(\w{50}){50}'"] {
        let query = Query { filter: much.into(), max_results: 1, ..Query::default() };
        assert_eq!(tracking.search_traces(&[0], &query).await.unwrap_err().code, ErrorCode::InvalidParameterValue, "{much}");
    }
}

/// What a metric comes to, a line for each group: when it begins, what it was made by, and its values.
async fn measured(tracking: &Tracking, of: MetricsOf, metric: &str, aggregations: &[Aggregation], more: TraceMetrics) -> Vec<String> {
    let asked = TraceMetrics { of, metric: metric.into(), aggregations: aggregations.to_vec(), ..more };
    let points = tracking.trace_metrics(asked).await.unwrap_or_else(|e| panic!("{metric}: {e}"));
    let line = |point: kilter_tracking::DataPoint| {
        let time = point.time.map(|time| format!("@{time} ")).unwrap_or_default();
        let by: Vec<String> = point.dimensions.iter().map(|d| format!("{}={} ", d.key, d.value)).collect();
        let values: Vec<String> = point.values.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        format!("{time}{}{}", by.concat(), values.join(" "))
    };
    points.into_iter().map(line).collect()
}

fn everything() -> TraceMetrics {
    TraceMetrics {
        experiments: vec![0],
        of: MetricsOf::Traces,
        metric: String::new(),
        aggregations: Vec::new(),
        dimensions: Vec::new(),
        filters: Vec::new(),
        step: None,
        from: None,
        to: None,
        max_results: 1000,
    }
}

#[tokio::test]
async fn traces_spans_and_what_is_said_of_them_are_measured() {
    use Aggregation::{Avg, Count, Max, Min, Percentile, Sum};
    let (_dir, tracking) = open().await;
    let none = measured(&tracking, MetricsOf::Traces, "trace_count", &[Count], everything()).await;
    assert_eq!((none, measured(&tracking, MetricsOf::Traces, "latency", &[Avg], everything()).await), (vec!["COUNT:0".into()], vec![]));
    for (trace, name, session, tokens) in [(1, "a", "s", 10), (2, "b", "s", 20), (3, "a", "t", 40)] {
        let usage = format!(r#"{{"input_tokens": {tokens}, "output_tokens": 1, "total_tokens": {}}}"#, tokens + 1);
        let called = vec![
            text("mlflow.chat.tokenUsage", &usage),
            text("mlflow.llm.cost", &format!(r#"{{"input_cost": 0.5, "output_cost": {trace}.0, "total_cost": {trace}.5}}"#)),
            text("mlflow.llm.model", if trace == 2 { "large" } else { "small" }),
            text("mlflow.llm.provider", "us"),
            text("mlflow.spanType", "LLM"),
        ];
        let mut root = span(trace, 1, 0, name, vec![text("session.id", session), text("mlflow.traceTag.kind", name)]);
        root.end_time_unix_nano = root.start_time_unix_nano + millis(u64::from(trace) * 1000) + 999;
        root.status = Some(SpanStatus { code: if trace == 3 { 2 } else { 1 }, ..SpanStatus::default() });
        log(&tracking, vec![root, span(trace, 2, 1, "call", called)]).await;
    }
    log(&tracking, vec![span(4, 1, 0, "plain", vec![])]).await;
    for (name, value, overrides) in
        [("good", json!(true), None), ("good", json!("No "), None), ("good", json!(0.25), Some(0)), ("why", json!("words"), None)]
    {
        let mut said =
            Assessment { trace: id(1), name: name.into(), value, source_type: "CODE".into(), is_valid: true, ..Assessment::default() };
        if overrides.is_some() {
            let first = tracking.trace_info(&id(1)).await.unwrap().assessments.into_iter().find(|a| a.value == json!(true)).unwrap();
            said.overrides = Some(first.id);
        }
        tracking.create_assessment(said).await.unwrap();
    }
    let by = |dimensions: &[&str]| TraceMetrics { dimensions: dimensions.iter().map(ToString::to_string).collect(), ..everything() };
    let with = |filters: &[&str]| TraceMetrics { filters: filters.iter().map(ToString::to_string).collect(), ..everything() };
    let run = tracking.create_run(NewRun::default()).await.unwrap().info.id;
    tracking.link_traces_to_run(vec![id(2)], run.clone()).await.unwrap();
    let of_run = format!("trace.metadata.mlflow.sourceRun = '{run}'");
    let (traces, spans, said) = (MetricsOf::Traces, MetricsOf::Spans, MetricsOf::Assessments);
    for (of, metric, aggregations, asked, want) in [
        (traces, "trace_count", &[Count][..], everything(), &["COUNT:4"][..]),
        (
            traces,
            "trace_count",
            &[Count],
            by(&["trace_name", "trace_status"]),
            &[
                "trace_name=a trace_status=ERROR COUNT:1",
                "trace_name=a trace_status=OK COUNT:1",
                "trace_name=b trace_status=OK COUNT:1",
                "trace_name=plain trace_status=OK COUNT:1",
            ],
        ),
        (traces, "trace_count", &[Count], TraceMetrics { max_results: 1, ..by(&["trace_name"]) }, &["trace_name=a COUNT:2"]),
        // Its values come before and after those of groups that are not answered.
        (traces, "latency", &[Min, Max], TraceMetrics { max_results: 1, ..by(&["trace_name"]) }, &["trace_name=a MIN:1000 MAX:3000"]),
        (traces, "trace_count", &[Count], with(&["trace.status = 'OK'", "trace.tag.kind = 'a'"]), &["COUNT:1"]),
        (traces, "trace_count", &[Count], with(&["trace.tag.mlflow.traceName = 'b'"]), &["COUNT:1"]),
        (traces, "trace_count", &[Count], with(&[&of_run]), &["COUNT:1"]),
        (traces, "session_count", &[Count], everything(), &["COUNT:2"]),
        (traces, "session_count", &[Count], with(&["trace.metadata.`mlflow.trace.session` = 's'"]), &["COUNT:1"]),
        (
            traces,
            "latency",
            &[Min, Max, Percentile(50.)],
            by(&["trace_name"]),
            &[
                "trace_name=a MIN:1000 MAX:3000 P50.0:2000",
                "trace_name=b MIN:2000 MAX:2000 P50.0:2000",
                "trace_name=plain MIN:100 MAX:100 P50.0:100",
            ],
        ),
        (traces, "input_tokens", &[Sum, Avg, Percentile(75.)], everything(), &["SUM:70 AVG:23.333333333333332 P75.0:30"]),
        (traces, "cache_read_input_tokens", &[Sum], everything(), &[]),
        (
            spans,
            "span_count",
            &[Count],
            by(&["span_type", "span_model_name"]),
            &["span_type=LLM span_model_name=large COUNT:1", "span_type=LLM span_model_name=small COUNT:2"],
        ),
        (spans, "span_count", &[Count], with(&["span.name = 'call'", "trace.status = 'ERROR'"]), &["COUNT:1"]),
        (
            spans,
            "latency",
            &[Max],
            by(&["span_status"]),
            &["span_status=ERROR MAX:3000", "span_status=OK MAX:2000", "span_status=UNSET MAX:100"],
        ),
        (
            spans,
            "output_cost",
            &[Sum],
            by(&["span_model_name", "span_model_provider"]),
            &["span_model_name=large span_model_provider=us SUM:2", "span_model_name=small span_model_provider=us SUM:4"],
        ),
        (
            said,
            "assessment_count",
            &[Count],
            by(&["assessment_name", "assessment_value"]),
            &[
                "assessment_name=good assessment_value=\"No \" COUNT:1",
                "assessment_name=good assessment_value=0.25 COUNT:1",
                "assessment_name=why assessment_value=\"words\" COUNT:1",
            ],
        ),
        (said, "assessment_value", &[Avg, Max], by(&["assessment_name"]), &["assessment_name=good AVG:0.125 MAX:0.25"]),
        (said, "assessment_count", &[Count], with(&["assessment.type = 'feedback'", "assessment.name = 'good'"]), &["COUNT:2"]),
    ] {
        assert_eq!(measured(&tracking, of, metric, aggregations, asked.clone()).await, want, "{metric} {asked:?}");
    }
    // Groups in time. Spans are counted by when their trace began, and costs by when they did.
    let (one, two) = (TraceInfo { start_time: -1, ..TraceInfo::default() }, TraceInfo { start_time: 120_000, ..TraceInfo::default() });
    for (at, info) in [one, two].into_iter().enumerate() {
        tracking.start_trace(TraceInfo { id: format!("tr-t{at}"), duration: Some(5), ..info }).await.unwrap();
    }
    let steps = TraceMetrics { step: Some(60), from: Some(-100_000), to: Some(120_000), ..everything() };
    let counted = measured(&tracking, traces, "trace_count", &[Count], steps.clone()).await;
    assert_eq!(counted, ["@-60000 COUNT:1", "@0 COUNT:4", "@120000 COUNT:1"]);
    let counted = measured(
        &tracking,
        spans,
        "span_count",
        &[Count],
        TraceMetrics { step: Some(1), from: Some(1001), to: Some(1001), ..everything() },
    );
    assert_eq!(counted.await, ["@1000 COUNT:7"]);
    let cost = |to| TraceMetrics { from: Some(1002), to: Some(to), ..everything() };
    assert_eq!(measured(&tracking, spans, "input_cost", &[Sum], cost(1002)).await, ["SUM:1.5"]);
    assert!(measured(&tracking, spans, "input_cost", &[Sum], cost(1001)).await.is_empty());
    assert_eq!(
        measured(&tracking, traces, "trace_count", &[Count], TraceMetrics { experiments: vec![], ..everything() }).await,
        ["COUNT:0"]
    );

    for (asked, why) in [
        (TraceMetrics { metric: "x".into(), ..everything() }, "metric_name must be one of ['trace_count', 'session_count', 'latency', "),
        (
            TraceMetrics { metric: "latency".into(), aggregations: vec![Sum, Count], ..everything() },
            "['COUNT', 'SUM']. Supported aggregation types: ['AVG', 'MAX', 'MIN', 'PERCENTILE']",
        ),
        (
            TraceMetrics { metric: "trace_count".into(), ..by(&["span_name"]) },
            "Found invalid dimension(s): ['span_name']. Supported dimensions: ['trace_name', 'trace_status']",
        ),
        (TraceMetrics { metric: "trace_count".into(), step: Some(60), ..everything() }, "start_time_ms and end_time_ms are required"),
        (
            TraceMetrics { metric: "trace_count".into(), ..with(&["span.name = 'x'"]) },
            "Filtering by span is only supported for SPANS view type, got TRACES",
        ),
    ] {
        let refused = tracking.trace_metrics(asked).await.unwrap_err();
        assert!(refused.code == ErrorCode::InvalidParameterValue && refused.message.contains(why), "{refused}");
    }
}
