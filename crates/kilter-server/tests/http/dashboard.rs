//! What pages about a running project ask for.

use std::io::{BufRead, BufReader};

use super::*;

/// What is told live, event by event.
struct Told {
    lines: BufReader<Box<dyn Read>>,
}

impl Told {
    fn open(server: &Server, path: &str) -> Told {
        let response = server.agent.get(server.url(path)).call().unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Told { lines: BufReader::new(Box::new(response.into_body().into_reader())) }
    }

    /// The next event's name and data; none at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.trim_end().to_string();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// All events up to the first that `is` what is waited for, that one included.
    fn until(&mut self, is: impl Fn(&str, &Value) -> bool) -> Vec<(String, Value)> {
        let began = Instant::now();
        let mut all = Vec::new();
        while began.elapsed() < Duration::from_secs(60) {
            let (name, data) = self.next().expect("the server goes on");
            let found = is(&name, &data);
            all.push((name, data));
            if found {
                return all;
            }
        }
        panic!("it does not come: {all:?}");
    }
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let mut server = Server::start();
    let mut told = Told::open(&server, "/v1/live?decisions=3");
    let (name, first) = told.next().unwrap();
    assert_eq!((name.as_str(), &first["window_seconds"], &first["events_per_second"]), ("status", &Value::Null, &Value::Null), "{first}");
    assert_eq!(first["decisions"][0]["outcomes"][0], json!({"outcome": "block", "total": 0, "per_second": null, "share": null}), "{first}");
    let before = server.service.data.decisions.next_offset();

    server.play(0..300);
    server.post("/v1/models/fraud/train", JSON, r#"{"promote": "always"}"#).ok();
    let swapped = told.until(|name, data| name == "swap" && data["version"] == 1);
    assert_eq!(swapped.last().unwrap().1, json!({"kind": "model", "model": "fraud", "version": 1, "before": null}));
    assert!(swapped.iter().any(|(name, run)| name == "run" && run["model"] == "fraud"), "{swapped:?}");
    let mut busy = swapped.iter().filter(|(name, status)| name == "status" && status["decisions"][0]["per_second"].as_f64() > Some(0.0));
    let (_, busy) = busy.next_back().expect("a second in which something was decided");
    assert!(busy["window_seconds"].as_f64() > Some(0.5), "{busy}");
    let pay = &busy["decisions"][0];
    assert_eq!((&pay["decision"], &pay["outcomes"][1]["share"]), (&json!("pay"), &json!(1.0)), "all by the fallback: {pay}");
    assert!(busy["events_per_second"].as_f64() > Some(0.0) && named_source(busy, "payments")["per_second"].as_f64() > Some(0.0), "{busy}");

    // On a model in service the monitor sees drift.
    server.play(300..420);
    server.post("/v1/decide/pay", JSON, payment(420)).ok();
    let alerted = told.until(|name, _| name == "alert");
    assert_eq!(alerted.last().unwrap().1["monitor"], "drift");
    let newest = format!("pay-{}", server.offset() - 1);
    let rest = told.until(|name, status| name == "status" && status["next_offset"].as_u64() == Some(server.offset()));
    let rest = rest.into_iter().chain(told.until(|name, _| name == "status"));
    let all: Vec<(String, Value)> = swapped.into_iter().chain(alerted).chain(rest).collect();
    let shown: Vec<&Value> = all.iter().filter(|(name, _)| name == "decision").map(|(_, decision)| decision).collect();
    assert!(shown.iter().all(|decision| decision["reasons"].is_array() && decision["recorded"] == true), "{shown:?}");
    assert!(shown.iter().any(|decision| decision["decision_id"] == newest.as_str() || decision["decision"] == "strict"), "{shown:?}");
    let dropped: u64 = all.iter().filter(|(name, _)| name == "dropped").map(|(_, dropped)| dropped["decisions"].as_u64().unwrap()).sum();
    let log = &server.service.data.decisions;
    let made = log.next_offset() - before;
    let told_of = dropped + shown.len() as u64;
    // The records of layouts are none of decisions: not shown, and counted only where records are passed over.
    let is_layout = |at: &u64| {
        use kilter_pipeline::decision::{Entry, decode};
        matches!(decode(&log.read(*at).unwrap().unwrap()).unwrap(), Entry::Layout(_))
    };
    let layouts = (before..log.next_offset()).filter(is_layout).count() as u64;
    assert!(dropped > 0 && told_of <= made && told_of + layouts >= made, "{dropped} and {} of {made}, {layouts} layouts", shown.len());
    let status = all.iter().rev().find(|(name, _)| name == "status").map(|(_, status)| status).unwrap();
    assert_eq!((&status["models"][0]["in_service"], &status["monitors"][0]["state"]), (&json!(1), &json!("alert")), "{status}");

    server.get("/v1/live?decisions=201").refused(400, "bad_parameter");
    // It ends by itself, and keeps no server from stopping.
    let _ = server.stop.take().unwrap().send(());
    while told.next().is_some() {}
    let Server { runtime, task, .. } = server;
    runtime.block_on(task).unwrap().unwrap();
}

fn named_source<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["sources"].as_array().unwrap().iter().find(|source| source["source"] == name).unwrap()
}

#[test]
fn only_so_many_listen_and_their_places_come_back() {
    let server = Server::start();
    let mut all: Vec<Told> = (0..64).map(|_| Told::open(&server, "/v1/live?decisions=0")).collect();
    server.get("/v1/live").refused(429, "slow_down");
    all.pop();
    let began = Instant::now();
    let status = || server.agent.get(server.url("/v1/live")).call().unwrap().status().as_u16();
    while status() == 429 {
        assert!(began.elapsed() < Duration::from_secs(60), "the place of one that went away is not free");
        std::thread::yield_now();
    }
    drop(all);
    server.end();
}

/// A model in service that was trained on 300 payments and has decided on 160 more.
fn decided() -> Server {
    let server = Server::start();
    server.play(0..300);
    server.post("/v1/models/fraud/train", JSON, r#"{"promote": "always"}"#).ok();
    server.play(300..460);
    server
}

fn list<'a>(page: &'a Value, name: &str) -> &'a Vec<Value> {
    page[name].as_array().unwrap_or_else(|| panic!("no list `{name}` in {page}"))
}

fn sum(counts: &Value) -> u64 {
    counts.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum()
}

#[test]
fn decisions_are_found_by_what_they_hold_and_whom_they_are_about() {
    let server = decided();
    let found = |query: &str| server.get(&format!("/v1/decisions?decision=pay&limit=1000&{query}")).ok();
    let count = |query: &str| list(&found(query), "decisions").len();
    assert_eq!((count(""), count("model_version=1"), count("model_version=2")), (460, 160, 0));

    // Payments go to five cards in turn.
    let own = found("key=3&inputs=true");
    assert_eq!(list(&own, "decisions").len(), 92);
    for decision in list(&own, "decisions") {
        assert_eq!(decision["as_of_offset"].as_u64().map(|offset| server.card(offset)), Some(json!(3)), "{decision}");
    }
    let newest = &own["decisions"][0];
    let id = newest["decision_id"].as_str().unwrap();
    assert_eq!(newest["inputs"], server.get(&format!("/v1/decisions/{id}")).ok()["inputs"], "what the model saw");
    assert_eq!((count("view=card&key=3"), count("key=99")), (92, 0));
    assert!(found("")["decisions"][0].get("inputs").is_none());

    let [from, to] = [at(300 * 3), at(310 * 3)];
    assert_eq!((count(&format!("from={from}&to={to}")), count(&format!("to={from}")), count(&format!("from={to}"))), (10, 300, 150));
    let scored = found("min_score=0.5");
    assert!(!list(&scored, "decisions").is_empty() && list(&scored, "decisions").iter().all(|d| d["score"].as_f64() >= Some(0.5)));
    assert_eq!(list(&scored, "decisions").len() + count("max_score=0.499999999"), 160, "those without a score are in neither");
    let reasons = found("reason=payments.amount");
    let names = |d: &Value| list(d, "reasons").iter().any(|reason| reason["feature"] == "payments.amount");
    assert!(!list(&reasons, "decisions").is_empty() && list(&reasons, "decisions").iter().all(names));
    let none = found("reason=nothing");
    assert_eq!(
        (&none["next"], &none["decisions"], none["back_to"].as_str()),
        (&Value::Null, &json!([]), Some(at(0).to_string().as_str())),
        "{none}"
    );
    assert!(none["looked_at"].as_u64() > Some(460), "of both decisions: {none}");

    // Page by page, as JSON and as CSV, it is the same.
    let (mut before, mut ids) = (String::new(), Vec::new());
    loop {
        let page = server.get(&format!("/v1/decisions?key=3&limit=20{before}")).ok();
        ids.extend(list(&page, "decisions").iter().map(|d| d["decision_id"].as_str().unwrap().to_string()));
        if page["next"].is_null() {
            break;
        }
        before = format!("&before={}", page["next"]);
    }
    assert_eq!(ids.len(), 92 + 32, "those of both decisions");
    let (mut before, mut rows) = (String::new(), Vec::new());
    loop {
        let page = server.get(&format!("/v1/decisions?key=3&limit=50&format=csv{before}"));
        assert_eq!((page.status, page.header("content-type")), (200, "text/csv; charset=utf-8"));
        let text = page.text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("decision_id,time,decision,outcome,score,model,model_version,rule,reasons"));
        rows.extend(lines.map(|line| line.split(',').next().unwrap().to_string()));
        match page.header("next-before") {
            "" => break,
            next => before = format!("&before={next}"),
        }
    }
    assert_eq!(rows, ids);

    for query in ["view=card", "min_score=high", "format=xml", "format=csv&inputs=true", "model_version=0", "from=never", "limit=1001"] {
        server.get(&format!("/v1/decisions?{query}")).refused(400, "bad_parameter");
    }
    server.get("/v1/decisions?view=crad&key=1").refused(404, "unknown_view");
    server.get("/v1/decisions?key=x").refused(422, "invalid_request");
    server.end();
}

impl Server {
    /// The card of the payment at an offset.
    fn card(&self, offset: u64) -> Value {
        let record = self.service.data.events.read(offset).unwrap().unwrap();
        let decoder = self.service.data.decoder(&self.service.plan);
        let kilter_runtime::Record::Event(event) = decoder.decode(offset, &record).unwrap() else { panic!("no event at {offset}") };
        json!(event.row[self.service.plan.sources[usize::from(event.source.0)].schema.index("card").unwrap()])
    }
}

#[test]
fn drift_has_a_history_and_distributions_behind_it() {
    let server = decided();
    let history = server.get("/v1/monitors/drift/history").ok();
    assert_eq!((&history["signal"], &history["every"], &history["above"]), (&json!("psi"), &json!("1h"), &json!(0.0001)), "{history}");
    let (features, buckets) = (list(&history, "features"), list(&history, "buckets"));
    assert_eq!((features.len(), features.last()), (6, Some(&json!("score"))), "five inputs and the score: {history}");
    assert!(buckets.len() >= 2 && history["next"].is_null(), "{history}");
    for bucket in buckets {
        let values: Vec<f64> = list(bucket, "values").iter().map(|value| value.as_f64().unwrap()).collect();
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let place = values.iter().position(|value| *value == most).unwrap();
        assert_eq!((&bucket["value"], &bucket["subject"]), (&json!(most), &features[place]), "{bucket}");
        assert_eq!((&bucket["state"], &bucket["model_version"], values.len()), (&json!("alert"), &json!(1), 6), "{bucket}");
    }
    let first = server.get("/v1/monitors/drift/history?limit=1").ok();
    assert_eq!((&first["buckets"][0], &first["next"].is_null()), (&buckets[0], &false));
    let second = server.get(&format!("/v1/monitors/drift/history?limit=1&before={}", first["next"])).ok();
    assert_eq!(second["buckets"][0], buckets[1]);
    let then = buckets[1]["at"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/v1/monitors/drift/history?to={then}")).ok()["buckets"][0],
        buckets.get(2).cloned().unwrap_or_default()
    );

    for (bucket, at) in [(&buckets[0], String::new()), (&buckets[1], format!("&at={then}"))] {
        for (feature, value) in features.iter().zip(list(bucket, "values")) {
            let both = server.get(&format!("/v1/monitors/drift/distributions?feature={}{at}", feature.as_str().unwrap())).ok();
            assert_eq!((&both["value"], &both["at"], &both["rows"]), (value, &bucket["at"], &bucket["rows"]), "{both}");
            assert_eq!(list(&both, "edges").len() + 1, list(&both["current"], "counts").len(), "{both}");
            // The value is that of the counts told.
            let shares = |side: &Value| {
                let counts = list(side, "counts").iter().chain([&side["missing"]]).map(|n| n.as_u64().unwrap() as f64 + 0.5);
                let counts: Vec<f64> = counts.collect();
                assert_eq!(sum(&side["counts"]) + side["missing"].as_u64().unwrap(), side["rows"].as_u64().unwrap());
                let all: f64 = counts.iter().sum();
                counts.into_iter().map(move |n| n / all).collect::<Vec<f64>>()
            };
            let (before, now) = (shares(&both["reference"]), shares(&both["current"]));
            let psi: f64 = before.iter().zip(&now).map(|(q, p)| (p - q) * (p / q).ln()).sum();
            assert!((psi - value.as_f64().unwrap()).abs() < 1e-9, "{psi}: {both}");
        }
    }
    let error = server.get("/v1/monitors/drift/distributions?feature=payments.amuont").refused(404, "unknown_feature");
    assert_eq!(error["hint"], "did you mean `payments.amount`?");
    server.get("/v1/monitors/drift/distributions?feature=score&at=2020-01-01").refused(404, "unknown_bucket");
    server.get("/v1/monitors/drift/distributions").refused(400, "bad_parameter");
    assert!(server.get("/v1/monitors/same/history").refused(404, "unknown_monitor")["hint"].as_str().unwrap().contains("machinery"));
    assert_eq!(server.get("/v1/monitors/dirft/history").refused(404, "unknown_monitor")["hint"], "did you mean `drift`?");

    assert!(list(&server.get("/v1/monitors/drift/history?before=-1").ok(), "buckets").is_empty(), "before 1970");
    // It is the same when a start reads the whole log again.
    let mut server = server;
    let _ = server.stop.take().unwrap().send(());
    let Server { runtime, task, _dir: dir, service, .. } = server;
    runtime.block_on(task).unwrap().unwrap();
    drop((service, runtime));
    for snapshot in std::fs::read_dir(dir.path().join("kilter-data/snapshots")).unwrap() {
        std::fs::remove_file(snapshot.unwrap().path()).unwrap();
    }
    let again = Server::at(dir, |_| ());
    let began = Instant::now();
    // They are written beside the stream.
    while list(&again.get("/v1/monitors/drift/history").ok(), "buckets").len() < buckets.len() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    assert_eq!(again.get("/v1/monitors/drift/history").ok(), history);
    again.end();
}

#[test]
fn a_version_has_curves_and_the_distributions_it_learned_from() {
    let server = decided();
    let answer = server.get("/v1/models/fraud/versions/1/evaluation").ok();
    let model = server.get("/v1/models/fraud").ok();
    let (version, told) = (&model["versions"][0], &answer["evaluation"]);
    assert_eq!((&answer["run"], &told["task"]), (&version["run"], &json!("classes")), "{answer}");
    let rows = told["rows"].as_u64().unwrap();
    assert_eq!(Some(rows as f64), version["metrics"]["holdout_rows"].as_f64());
    let roc = list(told, "roc");
    assert_eq!(roc[0], json!({"threshold": null, "false_positive_rate": 0.0, "true_positive_rate": 0.0}));
    let number = |value: &Value| value.as_f64().unwrap();
    let area = |pair: &[Value]| {
        let wide = number(&pair[1]["false_positive_rate"]) - number(&pair[0]["false_positive_rate"]);
        wide * 0.5 * (number(&pair[0]["true_positive_rate"]) + number(&pair[1]["true_positive_rate"]))
    };
    let auc: f64 = roc.windows(2).map(area).sum();
    assert!((auc - number(&version["metrics"]["auc"])).abs() < 0.01, "{auc}: {version}");
    assert!(!list(told, "precision_recall").is_empty() && !list(told, "gains").is_empty());
    let in_bins: u64 = list(told, "calibration").iter().map(|bin| bin["count"].as_u64().unwrap()).sum();
    assert_eq!(
        (in_bins, sum(&told["scores"]["all"]), sum(&told["scores"]["positives"])),
        (rows, rows, told["positives"].as_u64().unwrap())
    );
    for at in list(told, "thresholds") {
        let all = ["true_positives", "false_positives", "true_negatives", "false_negatives"].map(|name| at[name].as_u64().unwrap());
        assert_eq!(all.iter().sum::<u64>(), rows, "{at}");
    }
    assert_eq!((list(told, "importance").len(), &told["residuals"]), (5, &Value::Null));
    let shap = &told["shap"];
    assert_eq!((&shap["rows"], list(shap, "features").len(), list(shap, "dependence").len()), (&json!(rows.min(500)), 5, 5), "{shap}");
    assert_eq!(
        (&shap["features"][0]["feature"], &shap["dependence"][0]["feature"]),
        (&json!("payments.amount"), &json!("payments.amount"))
    );

    let known = server.get("/v1/models/fraud/versions/1/reference").ok();
    let features = list(&known, "features");
    assert_eq!((features.len(), &features[5]["feature"]), (6, &json!("score")), "{known}");
    for feature in features {
        let counted = sum(&feature["counts"]) + feature["missing"].as_u64().unwrap();
        assert_eq!(
            (Some(counted), list(feature, "edges").len() + 1),
            (feature["rows"].as_u64(), list(feature, "counts").len()),
            "{feature}"
        );
    }

    // One that came as a file has seen no rows here.
    let file = server.get("/v1/models/fraud/versions/1/file?format=kilter");
    server.post("/v1/models/fraud/versions?file=again.kltm", "application/octet-stream", &file.body).ok();
    let error = server.get("/v1/models/fraud/versions/2/evaluation").refused(404, "no_evaluation");
    assert!(error["hint"].as_str().unwrap().contains("train"), "{error}");
    for what in ["evaluation", "reference"] {
        server.get(&format!("/v1/models/fraud/versions/9/{what}")).refused(404, "unknown_version");
        server.get(&format!("/v1/models/farud/versions/1/{what}")).refused(404, "unknown_model");
    }
    server.end();
}

impl Server {
    /// What came of a backtest with these definitions, and its run.
    fn backtest(&self, body: &Value) -> (Value, Value) {
        let begun = self.post("/v1/backtests", JSON, body.to_string());
        assert_eq!(begun.status, 202, "{}", begun.text());
        let id = begun.json()["run"].as_str().unwrap().to_string();
        let began = Instant::now();
        let run = loop {
            let run = self.get(&format!("/v1/runs/{id}")).ok();
            if run["status"] != "running" {
                break run;
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{run}");
            std::thread::yield_now();
        };
        assert_eq!((&run["status"], &run["kind"]), (&json!("finished"), &json!("backtest")), "{run}");
        (self.get(&format!("/v1/runs/{id}/artifacts/backtest.json")).ok(), run)
    }
}

#[test]
fn definitions_are_tried_on_the_past() {
    let server = decided();
    let text = server.get("/v1/project/definitions");
    assert_eq!((text.header("content-type"), text.text().as_str()), ("application/toml", DEFINITIONS));
    let (offset, decided) = (server.offset(), server.service.data.decisions.next_offset());
    let (same, run) = server.backtest(&json!({"definitions": DEFINITIONS}));
    assert_eq!(
        (&same["compared"], &same["changed"], &same["only_recorded"], &same["only_again"]),
        (&json!(620), &json!(0), &json!(0), &json!(0)),
        "{same}"
    );
    assert_eq!((&run["metrics"]["compared"], &run["definitions"]), (&json!(620.0), &json!(server.service.plan.hash)), "{run}");

    // The first policy blocks whatever has a score.
    let stricter = DEFINITIONS.replacen("score >= 0.5", "score >= 0.0", 1);
    let (other, _) = server.backtest(&json!({"definitions": stricter}));
    let passed = server.get("/v1/decisions?decision=pay&outcome=accept&min_score=0&limit=1000").ok();
    let passed = list(&passed, "decisions");
    assert!(passed.len() > 100);
    assert_eq!((&other["compared"], &other["changed"]), (&json!(620), &json!(passed.len())), "{other}");
    let of = |name: &str| list(&other, "decisions").iter().find(|own| own["decision"] == name).unwrap();
    assert_eq!((&of("strict")["changed"], &of("strict")["compared"]), (&json!(0), &json!(160)));
    let pay = of("pay");
    assert!(list(pay, "moves").contains(&json!({"recorded": "accept", "again": "block", "count": passed.len()})), "{pay}");
    let counted = |side: &str| -> u64 {
        list(pay, "periods").iter().map(|p| p[side].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>()).sum()
    };
    assert_eq!((counted("recorded"), counted("again"), list(pay, "periods").len() <= 100), (460, 460, true));
    let newest = &other["examples"][0];
    assert_eq!((&newest["decision_id"], &newest["recorded"]["score"]), (&passed[0]["decision_id"], &passed[0]["score"]), "{newest}");
    assert_eq!((&newest["again"]["outcome"], &newest["again"]["rule"]), (&json!("block"), &json!("score >= 0.0")));
    assert_eq!(
        (&newest["recorded"]["score"], &newest["recorded"]["model_version"]),
        (&newest["again"]["score"], &newest["again"]["model_version"])
    );

    let (late, _) = server.backtest(&json!({"definitions": stricter, "from": at(400 * 3).to_string(), "to": at(410 * 3).to_string()}));
    assert_eq!(late["compared"], 20, "{late}");
    // Without its inputs of then no version serves, and the fallback decides.
    let (without, _) =
        server.backtest(&json!({"definitions": DEFINITIONS.replace("\"payments.amount\"]", "\"payments.amount\", \"payments.card\"]")}));
    assert!(without["without_model"].as_u64() == Some(160) && without["only_recorded"].as_u64() == Some(160), "{without}");

    let error = server.post("/v1/backtests", JSON, json!({"definitions": "[project]"}).to_string()).refused(422, "bad_definitions");
    assert!(error["message"].as_str().unwrap().contains("kilter.toml"), "{error}");
    server.post("/v1/backtests", JSON, "{}").refused(400, "invalid_request");
    assert_eq!((server.offset(), server.service.data.decisions.next_offset()), (offset, decided), "nothing has changed");
    assert_eq!(server.service.plan.hash, server.get("/v1/status").ok()["definitions"]);
    server.end();
}
