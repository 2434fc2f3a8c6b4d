//! Definitions: what resolves, and what is said about those that do not.
#![allow(clippy::print_stderr)]

use std::path::Path;

use kilter_connect::{IdOf, OperationOf, TimeOf};
use kilter_core::{DataType, EventTime, Span, Value};
use kilter_learn::calibration::Method;
use kilter_learn::forest::Thresholds;
use kilter_learn::metrics::Aim;
use kilter_learn::scorecard::Shape;
use kilter_learn::selection::Setting;
use kilter_learn::{Learner, Task};
use kilter_pipeline::{ClockMode, Signal, When};
use kilter_runtime::project::{
    FILE_NAME, Project, Report, Severity, SourceFormat, SourceTime, TEMPLATES, TopicFormat, check_text, graph, json_schema, load,
    new_project,
};

const LENDER: &str = r#"
[project]
name = "lender"
clock = "event"

[server]
listen = "127.0.0.1:9000"
max_body = "8MiB"

[snapshot]
every = "30s"

[source.transactions]
time = "booked_at"
id = "transaction_id"
columns = { transaction_id = "string", account_id = "int64", booked_at = "timestamp", amount = "float64", kind = "string" }
lateness = "1d"

[source.applications]
time = "applied_at + interval '1 hour'"
[source.applications.columns]
application_id = "string"
account_id = "int64"
applied_at = "timestamp"
amount = { type = "float64", required = true }
months = "int64"

[source.repayments]
time = "seen_at"
columns = { loan_id = "string", seen_at = "timestamp", defaulted = "bool", account_id = "string" }

[features.account]
source = "transactions"
entity = "account_id"
where = "kind <> 'test'"
[features.account.columns]
txn_count = "count(*) over 1d, 7d"
turnover = { value = "sum(abs(amount)) over 7d", default = 0 }
last_kind = "last(kind)"

[features.borrower]
source = "repayments"
entity = "account_id"
columns = { defaults = "count(*) where defaulted" }

[service.overview]
features = ["account.txn_count_7d", "borrower.*", "rate = account.turnover_7d / account.txn_count_7d"]
keys = { borrower = "name" }

[model.default_risk]
on = "applications"
learner = "gbdt"
params = { trees = 50, learning_rate = 0.1 }
inputs = [
    "account.*",
    "amount",
    "burden = amount / account.turnover_7d",
    "is_rent = account.last_kind = 'rent'",
]
label = { source = "repayments", value = "defaulted", on = { application_id = "loan_id" }, within = "21d" }
window = "14d"
monotone = { burden = "increasing" }

[decision.loan]
model = "default_risk"
policy = [
    { when = "score >= 0.20", outcome = "decline" },
    { when = "score >= 0.08 and amount > 1000", outcome = "review" },
    { outcome = "approve" },
]
fallback = "ask"

[schedule.retrain]
every = "7d"
train = "default_risk"
promote_if = "auc > champion.auc - 0.002"

[monitor.drift]
model = "default_risk"
signal = "psi"
above = 0.2
then = ["alert", "retrain"]
"#;

fn check(text: &str) -> Result<Project, Report> {
    check_text(text, FILE_NAME, Path::new("/nowhere"))
}

fn sound(text: &str) -> Project {
    check(text).unwrap_or_else(|report| panic!("{report}"))
}

/// The definitions with one place changed.
fn edited(from: &str, to: &str) -> String {
    assert_eq!(LENDER.matches(from).count(), 1, "`{from}` must be in the definitions once");
    LENDER.replacen(from, to, 1)
}

#[test]
fn sound_definitions_become_a_plan() {
    let project = sound(LENDER);
    let plan = &project.plan;
    assert_eq!((plan.project.as_str(), plan.clock), ("lender", ClockMode::Event));
    assert_eq!(plan.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["applications", "repayments", "transactions"]);
    let transactions = plan.source("transactions").unwrap();
    assert_eq!(plan.sources[transactions.0 as usize].lateness, Span::DAY);
    assert_eq!(plan.view("account"), Some(0));
    assert!(project.warnings.is_empty(), "{:?}", project.warnings);

    let model = &plan.models[0];
    assert_eq!(model.context.source, plan.source("applications").unwrap());
    // The account is known by a column of the same name and type; the borrower's key is a string, so it is not in reach.
    assert_eq!(model.context.lookups.len(), 1);
    assert_eq!((model.context.lookups[0].view, model.context.lookups[0].first_slot), (0, 5));
    assert_eq!(model.context.lookups[0].key, [1]);
    assert_eq!(model.context.width, 5 + plan.views[0].features().len());
    let inputs: Vec<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
    let expected = ["account.txn_count_1d", "account.txn_count_7d", "account.turnover_7d", "applications.amount", "burden", "is_rent"];
    assert_eq!(inputs, expected);
    assert_eq!(model.inputs[3].expr.eval(&[Value::Null, Value::Null, Value::Null, Value::Float(7.0)]), Value::Float(7.0));
    assert_eq!(model.inputs[5].expr.data_type(), Some(DataType::Bool));
    let Learner::Gbdt(gbdt) = &model.learner else { panic!("gbdt was asked for") };
    assert_eq!((gbdt.trees, gbdt.learning_rate, gbdt.seed), (50, 0.1, 7));
    assert_eq!(gbdt.monotone, [0, 0, 0, 0, 1, 0]);
    assert_eq!((model.window, model.holdout, model.min_rows, model.include_self), (Some(Span(14 * Span::DAY.0)), 0.2, 200, false));
    let label = model.label.as_ref().unwrap();
    assert_eq!((label.observation_key.as_slice(), label.label_key.as_slice()), ([0].as_slice(), [0].as_slice()));
    assert_eq!((label.within, label.absent), (Span(21 * Span::DAY.0), None));

    let decision = &plan.decisions[0];
    assert_eq!(decision.outcomes, ["decline", "review", "approve", "ask"]);
    assert_eq!((decision.model, decision.fallback, decision.reasons), (Some(0), Some(3), 4));
    assert_eq!(decision.context.width, model.context.width);
    assert_eq!(decision.policy[0].when.as_ref().unwrap().slots(), [decision.context.width]);
    assert!(decision.policy[2].when.is_none());

    assert!(matches!(plan.schedules[0].when, When::Every(span) if span == Span(7 * Span::DAY.0)));
    let monitor = &plan.monitors[0];
    assert_eq!((monitor.signal, monitor.above, monitor.below, monitor.retrain), (Signal::Psi, Some(0.2), None, true));
}

#[test]
fn the_door_and_the_process_get_their_settings() {
    let project = sound(LENDER);
    assert_eq!(project.settings.server.listen, "127.0.0.1:9000");
    assert_eq!(project.settings.server.max_body_bytes, 8 << 20);
    assert_eq!(project.settings.log.segment_bytes, 256 << 20);
    assert_eq!((project.settings.snapshot.every, project.settings.snapshot.keep), (Span(30_000_000), 3));
    assert_eq!(project.data_dir(), Path::new("/nowhere/kilter-data"));

    let formats = project.row_formats();
    let transactions = &formats[2];
    assert_eq!((transactions.source.as_str(), transactions.id), ("transactions", IdOf::Column(0)));
    assert!(matches!(transactions.time, TimeOf::Column(2)));
    let applications = &formats[0];
    assert_eq!((applications.required.as_slice(), applications.id), ([3].as_slice(), IdOf::Reserved));
    let TimeOf::Function(time) = &applications.time else { panic!("the time is computed") };
    let row = [Value::Null, Value::Null, Value::Time(EventTime(5)), Value::Null, Value::Null];
    assert_eq!(time(&row), Value::Time(EventTime(5) + Span::HOUR));

    let arrival = sound(&edited("time = \"seen_at\"", "time = \"arrival\""));
    assert!(matches!(arrival.source_settings[1].time, SourceTime::Arrival));
    let future = sound(&edited("lateness = \"1d\"", "max_future = \"none\""));
    assert_eq!((future.source_settings[2].max_future, future.source_settings[0].max_future), (None, Some(Span::MINUTE)));
}

#[test]
fn a_key_under_another_name_is_said_once() {
    let text = edited("on = \"applications\"\n", "on = \"applications\"\nkeys = { borrower = \"application_id\" }\n")
        .replace("\"amount\",", "\"amount\", \"borrower.*\",");
    let plan = sound(&text).plan;
    let borrower = plan.view("borrower").unwrap();
    let lookup = plan.models[0].context.lookups.iter().find(|l| l.view == borrower).unwrap();
    assert_eq!(lookup.key, [0]);
    assert!(plan.models[0].inputs.iter().any(|i| i.name == "borrower.defaults"));
}

#[test]
fn rules_alone_decide_without_a_model() {
    let text = format!(
        "{LENDER}\n[decision.limit]\non = \"transactions\"\npolicy = [{{ when = \"abs(amount) > account.turnover_7d\", outcome = \"hold\" }}, {{ outcome = \"pass\" }}]\ninclude_self = true\n"
    );
    let plan = sound(&text).plan;
    let limit = &plan.decisions[plan.decision("limit").unwrap()];
    assert_eq!((limit.model, limit.fallback, limit.include_self), (None, None, true));
}

#[test]
fn settings_of_a_learner_can_be_switched_off() {
    let Learner::Gbdt(gbdt) =
        sound(&edited("trees = 50", "trees = 50, early_stopping = false, max_depth = 6")).plan.models[0].learner.clone()
    else {
        panic!("gbdt was asked for")
    };
    assert_eq!((gbdt.early_stopping, gbdt.max_depth), (None, Some(6)));
    let logistic =
        edited("learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }", "learner = \"logistic\"\nparams = { l2 = 3 }")
            .replace("monotone = { burden = \"increasing\" }\n", "");
    assert!(matches!(sound(&logistic).plan.models[0].learner.clone(), Learner::Logistic(l) if l.l2 == 3.0));
}

#[test]
fn a_forest_takes_its_settings_and_the_seed_of_the_model() {
    let text = edited(
        "learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }",
        "learner = \"forest\"\nseed = 11\nparams = { trees = 30, thresholds = \"random\", bootstrap = false, columns_per_split = 2 }",
    )
    .replace("monotone = { burden = \"increasing\" }\n", "");
    let Learner::Forest(forest) = sound(&text).plan.models[0].learner.clone() else { panic!("a forest was asked for") };
    assert_eq!((forest.trees, forest.thresholds, forest.bootstrap), (30, Thresholds::Random, false));
    assert_eq!((forest.columns_per_split, forest.min_leaf_rows, forest.seed), (Some(2), 5, 11));
    for (setting, hint) in [("bootstrap = 1", "true or false"), ("thresholds = \"worst\"", "best"), ("trees = 0", "1 to 10000")] {
        let report = check(&text.replace("trees = 30, thresholds = \"random\", bootstrap = false", setting)).unwrap_err().to_string();
        assert!(report.contains(hint) && report.starts_with("error") && report.ends_with("1 error in kilter.toml"), "{report}");
    }
}

#[test]
fn an_additive_model_takes_its_settings_and_directions() {
    let text = edited(
        "learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }",
        "learner = \"explainable\"\nseed = 11\nparams = { pairs = 3, bags = 2 }",
    );
    let Learner::Explainable(additive) = sound(&text).plan.models[0].learner.clone() else { panic!("an additive model was asked for") };
    assert_eq!((additive.pairs, additive.bags, additive.rounds, additive.seed), (3, 2, 5000, 11));
    let burden = sound(&text).plan.models[0].inputs.iter().position(|input| input.name == "burden").unwrap();
    assert!(additive.monotone[burden] == 1 && additive.monotone.iter().filter(|direction| **direction != 0).count() == 1);
}

/// The lender with another learner, which keeps no directions.
fn with_learner(learner: &str) -> String {
    edited("learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }", learner)
        .replace("monotone = { burden = \"increasing\" }\n", "")
}

/// The same where the label is how much, and not whether.
fn of_numbers(learner: &str) -> String {
    with_learner(learner)
        .replace("value = \"defaulted\"", "value = \"case when defaulted then 100.5 else 0.0 end\"")
        .replace("auc > champion.auc - 0.002", "mae < champion.mae")
}

#[test]
fn a_model_may_predict_a_number() {
    let task = |text: &str| {
        let model = sound(text).plan.models[0].clone();
        assert!(model.label.as_ref().unwrap().is_number && model.figure_names().contains(&"mae"));
        model.task()
    };
    let gbdt = |objective: &str| of_numbers(&format!("learner = \"gbdt\"\nparams = {{ objective = {objective} }}"));
    assert_eq!(task(&gbdt("\"squared_error\"")), Task::Numbers(Aim::Mean));
    assert_eq!(task(&gbdt("{ quantile = { level = 0.9 } }")), Task::Numbers(Aim::Quantile { level: 0.9 }));
    assert_eq!(task(&gbdt("\"absolute_error\"")), Task::Numbers(Aim::Quantile { level: 0.5 }));
    assert_eq!(task(&gbdt("{ tweedie = { power = 1.3 } }")), Task::Numbers(Aim::Deviance { power: 1.3 }));
    assert_eq!(task(&gbdt("\"poisson\"")), Task::Numbers(Aim::Deviance { power: 1.0 }));
    assert_eq!(task(&of_numbers("learner = \"linear\"\nparams = { l2 = 3 }")), Task::Numbers(Aim::Mean));
    assert_eq!(task(&of_numbers("learner = \"forest\"\nparams = { target = \"mean\" }")), Task::Numbers(Aim::Mean));
    assert_eq!(task(&of_numbers("learner = \"explainable\"\nparams = { target = \"mean\" }")), Task::Numbers(Aim::Mean));
    let absent = gbdt("\"squared_error\"").replace("within = \"21d\"", "within = \"21d\", absent = -2.5");
    assert_eq!(sound(&absent).plan.models[0].label.as_ref().unwrap().absent, Some(-2.5));
    let text = graph(&sound(&gbdt("{ quantile = { level = 0.9 } }")));
    assert!(text.contains("gbdt of quantile (level 0.9), up to 300 trees"), "{text}");
}

#[test]
fn a_search_is_what_the_learner_has_settings_for() {
    let of = |text: &str| sound(&edited("window = \"14d\"", text)).plan.models[0].search.clone();
    assert_eq!(of("holdout = 0.2"), None);
    let usual = of("search = { fits = 40 }").unwrap();
    assert_eq!((usual.metric.as_str(), usual.search.budget.folds, usual.search.seed), ("log_loss", 3, 7));
    // What stands under `params` is meant; the rest is looked for.
    let names: Vec<&str> = usual.search.space.keys().map(String::as_str).collect();
    assert_eq!(names, ["bagging_fraction", "column_fraction", "lambda_l2", "leaves", "min_leaf_rows"]);
    let space = "{ learning_rate = { from = 0.01, to = 0.2, log = true }, trees = [100, 300], leaves = { from = 7, to = 63 } }";
    let table = format!("[model.default_risk.search]\nfits = 12\nfolds = 2\nmetric = \"auc\"\nspace = {space}");
    let own = sound(&format!("{LENDER}\n{table}\n")).plan.models[0].search.clone();
    let own = own.unwrap();
    assert_eq!((own.metric.as_str(), own.search.budget.fits, own.search.space.len()), ("auc", 12, 3));
    let Setting::Between(leaves) = own.search.space["leaves"] else { panic!("a range was asked for") };
    assert!(leaves.whole && !leaves.log && leaves.to == 63.0, "leaves are whole by themselves");
    let text = graph(&sound(&edited("window = \"14d\"", "search = { fits = 40, space = { leaves = [7, 15] } }")));
    assert!(text.contains("its leaves looked for in up to 40 fits by log_loss"), "{text}");
    assert_ne!(sound(LENDER).plan.hash, sound(&edited("window = \"14d\"", "search = { fits = 40 }\nwindow = \"14d\"")).plan.hash);
}

#[test]
fn reasons_may_be_of_groups_of_inputs() {
    let project = sound(&edited("window = \"14d\"", "reason_groups = { activity = \"account.txn_*\", size = [\"amount\", \"burden\"] }"));
    let model = &project.plan.models[0];
    let reasons = model.reasons.as_ref().unwrap();
    let of: Vec<(&str, &str)> =
        model.inputs.iter().zip(reasons.of_input.iter()).map(|(i, at)| (i.name.as_str(), reasons.names[*at].as_str())).collect();
    let expected = [
        ("account.txn_count_1d", "activity"),
        ("account.txn_count_7d", "activity"),
        ("account.turnover_7d", "account.turnover_7d"),
        ("applications.amount", "size"),
        ("burden", "size"),
        ("is_rent", "is_rent"),
    ];
    assert_eq!(of, expected);
    assert!(graph(&project).contains("reason activity"), "{}", graph(&project));
    assert_eq!(project.plan.layout(0).reasons, ["activity", "account.turnover_7d", "size", "is_rent"]);
}

#[test]
fn an_isolation_forest_needs_no_label() {
    let label = "label = { source = \"repayments\", value = \"defaulted\", on = { application_id = \"loan_id\" }, within = \"21d\" }\n";
    let isolation = with_learner("learner = \"isolation\"\nseed = 3\nparams = { sample = 128 }");
    let labelled = sound(&isolation).plan.models[0].clone();
    assert!(labelled.label.is_some() && labelled.figure_names().contains(&"auc") && !labelled.figure_names().contains(&"log_loss"));
    let Learner::Isolation(forest) = labelled.learner else { panic!("an isolation forest was asked for") };
    assert_eq!((forest.sample, forest.trees, forest.seed), (128, 100, 3));
    assert!(isolation.contains(label), "the lender has another label");
    let text = isolation.replace(label, "").replace("auc > champion.auc - 0.002", "rows >= 100");
    let project = sound(&text);
    assert!(project.plan.models[0].label.is_none() && project.plan.models[0].task() == Task::Anomalies);
    assert!(graph(&project).contains("isolation forest, 100 trees of 128 rows"), "{}", graph(&project));
}

/// What a learner of another task makes wrong, with the place and the way out.
#[test]
fn what_does_not_go_with_a_task_is_told() {
    let refused = |text: &str, code: &str, parts: &[&str]| {
        let report = check(text).unwrap_err().to_string();
        assert!(report.contains(&format!("error[{code}]")) && parts.iter().all(|part| report.contains(part)), "{report}");
        assert!(report.ends_with("1 error in kilter.toml"), "{report}");
    };
    let squared = of_numbers("learner = \"gbdt\"\nparams = { objective = \"squared_error\" }");
    let rule = squared.replace("mae < champion.mae", "auc > champion.auc");
    refused(&rule, "unknown_column", &["auc > champion.auc", "rmse"]);
    refused(
        &squared.replace("signal = \"psi\"", "signal = \"auc\""),
        "misplaced",
        &["signal = \"auc\"", "no figure of model", "psi, rmse, mae, bias"],
    );
    refused(
        &squared.replace("window = \"14d\"", "calibration = \"platt\""),
        "misplaced",
        &["predicts a number", "leave `calibration` out"],
    );
    refused(
        &squared.replace("case when defaulted then 100.5 else 0.0 end", "loan_id"),
        "wrong_type",
        &["must be a number", "value = \"amount\""],
    );
    let objective = |text: &str| of_numbers(&format!("learner = \"gbdt\"\nparams = {{ {text} }}"));
    refused(&objective("objective = \"squared_eror\""), "wrong_type", &["squared_eror", "squared_error"]);
    refused(&objective("objective = { quantile = { level = 2 } }"), "out_of_range", &["between 0 and 1"]);
    refused(&objective("objective = \"poisson\", scale_positive = 2"), "out_of_range", &["scale_positive", "no positive rows"]);
    let linear = of_numbers("learner = \"linear\"\nmonotone = { burden = \"decreasing\" }");
    refused(&linear, "misplaced", &["\"linear\" keeps no directions"]);
    let isolation = with_learner("learner = \"isolation\"");
    refused(&isolation.replace("signal = \"psi\"", "signal = \"brier\""), "misplaced", &["psi, auc"]);
    refused(&isolation.replace("auc > champion.auc", "log_loss < champion.log_loss"), "unknown_column", &["log_loss"]);
    refused(&with_learner("learner = \"isolation\"\ncategorical = [\"last_kind\"]"), "misplaced", &["knows no categories"]);
}

#[test]
fn a_text_may_be_an_input_where_it_is_a_category() {
    let project = sound(&edited("window = \"14d\"", "categorical = [\"last_kind\", \"txn_count_7d\"]\nwindow = \"14d\""));
    let model = &project.plan.models[0];
    let inputs: Vec<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
    assert!(inputs.contains(&"account.last_kind"), "{inputs:?}");
    let Learner::Gbdt(gbdt) = &model.learner else { panic!("gbdt was asked for") };
    assert_eq!(gbdt.categorical, ["account.last_kind", "account.txn_count_7d"]);
    let mut slots = vec![Value::Null; model.context.width];
    let mut row = Vec::new();
    slots.iter_mut().skip(5).for_each(|slot| *slot = Value::text("rent"));
    model.inputs(&slots, &mut row);
    assert_eq!(row[inputs.iter().position(|input| *input == "account.last_kind").unwrap()], kilter_learn::category_of("rent"));
    // With learners that know no categories it is refused.
    let logistic =
        edited("learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }", "learner = \"logistic\"\ncategorical = [\"last_kind\"]")
            .replace("monotone = { burden = \"increasing\" }\n", "");
    let report = check(&logistic).unwrap_err().to_string();
    assert!(report.contains("\"logistic\" knows no categories") && report.contains("use `learner = \"gbdt\"`"), "{report}");
}

#[test]
fn a_scorecard_takes_shapes_cuts_and_codes_of_single_inputs_by_short_names() {
    let text = edited(
        "learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }",
        "learner = \"scorecard\"\nparams = { pdo = 40, shape = \"any\", shapes = { turnover_7d = \"peak\" }, cuts = { applications.amount = [1000, 2500.5] }, special = { amount = [-1] } }",
    );
    let Learner::Scorecard(card) = sound(&text).plan.models[0].learner.clone() else { panic!("a scorecard was asked for") };
    assert_eq!((card.pdo, card.shape, card.max_bins), (40.0, Shape::Any, 8));
    let shapes: Vec<(&str, Shape)> = card.shapes.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    assert_eq!(shapes, [("account.turnover_7d", Shape::Peak), ("burden", Shape::Increasing)]);
    assert_eq!(card.cuts["applications.amount"], [1000.0, 2500.5]);
    assert_eq!(card.special["applications.amount"], [-1.0]);
}

#[test]
fn a_calibration_is_a_word_or_a_table() {
    let of = |text: &str| sound(&edited("window = \"14d\"", text)).plan.models[0].calibration;
    assert_eq!(of("holdout = 0.2"), None);
    let word = of("calibration = \"isotonic\"").unwrap();
    assert_eq!((word.calibration.method, word.calibration.target_rate, word.share), (Method::Isotonic, None, 0.2));
    let table = of("calibration = { method = \"prior_shift\", target_rate = 0.02, share = 0.5 }").unwrap();
    assert_eq!((table.calibration.method, table.calibration.target_rate, table.share), (Method::PriorShift, Some(0.02), 0.5));
    // It changes scores, so it changes the hash.
    assert_ne!(sound(LENDER).plan.hash, sound(&edited("window = \"14d\"", "window = \"14d\"\ncalibration = \"beta\"")).plan.hash);
}

#[test]
fn the_hash_follows_the_meaning() {
    let hash = |text: &str| sound(text).plan.hash;
    let plain = hash(LENDER);
    assert_eq!(plain.len(), 64);
    for (from, to) in [
        ("clock = \"event\"", "clock = \"event\" # a comment"),
        ("time = \"booked_at\"\nid = \"transaction_id\"", "id = \"transaction_id\"\ntime = \"booked_at\""),
        ("listen = \"127.0.0.1:9000\"", "listen = \"0.0.0.0:80\""),
        ("every = \"30s\"", "every = \"90s\""),
        ("window = \"14d\"", "window = \"2w\""),
        ("holdout = 0.2\n", ""),
        ("name = \"lender\"", "name = \"other\""),
        ("lateness = \"1d\"", "lateness = \"24h\"\nmax_future = \"none\"\ndescription = \"x\""),
    ] {
        let text = if LENDER.contains(from) { edited(from, to) } else { edited("window = \"14d\"", "window = \"14d\"\nholdout = 0.2") };
        assert_eq!(hash(&text), plain, "{from} -> {to}");
    }
    let (head, monitor) = LENDER.split_at(LENDER.find("[monitor.drift]").unwrap());
    assert_eq!(hash(&format!("{monitor}{head}")), plain, "the order of sections has no meaning");
    for (from, to) in [
        ("window = \"14d\"", "window = \"15d\""),
        ("score >= 0.20", "score >= 0.21"),
        ("trees = 50", "trees = 51"),
        ("clock = \"event\"", "clock = \"wall\""),
        ("txn_count = \"count(*) over 1d, 7d\"", "txn_count = \"count(*) over 7d, 1d\""),
        ("lateness = \"1d\"", "lateness = \"2d\""),
        ("above = 0.2", "above = 0.3"),
        ("lateness = \"1d\"", "lateness = \"1d\"\nkey = \"account_id\""),
        ("seen_at = \"timestamp\", defaulted = \"bool\"", "defaulted = \"bool\", seen_at = \"timestamp\""),
    ] {
        assert_ne!(hash(&edited(from, to)), plain, "{from} -> {to}");
    }
    let changes = |more: &str| hash(&edited("lateness = \"1d\"", &format!("lateness = \"1d\"\nkey = {more}")));
    let told = [
        "\"account_id\"",
        "[\"account_id\", \"kind\"]",
        "[\"kind\", \"account_id\"]",
        "\"account_id\"\noperation = \"op\"",
        "\"account_id\"\noperation = \"kind\"",
        "\"account_id\"\nenvelope = \"debezium\"",
    ];
    let hashes: std::collections::BTreeSet<String> = told.into_iter().map(changes).collect();
    assert_eq!(hashes.len(), told.len(), "key, operation and envelope are part of the meaning");
    assert_eq!(changes("[\"account_id\"]"), changes("\"account_id\""));
}

#[test]
fn a_source_may_tell_the_changes_of_a_table() {
    let of = |more: &str| {
        let project = sound(&edited("lateness = \"1d\"", more));
        let source = project.plan.source("transactions").unwrap().0 as usize;
        let plan = &project.plan.sources[source];
        let format = project.source_settings[source].row_format(&plan.schema);
        let line = graph(&project).lines().find(|l| l.starts_with("source transactions")).unwrap().to_owned();
        assert_eq!(plan.key, format.key);
        (format.key, format.required, format.operation, line)
    };
    let rest = "time booked_at, lateness 1h, dedupe 1d";
    assert_eq!(of("# nothing"), (vec![], vec![], OperationOf::Nothing, format!("source transactions   http, {rest}")));
    assert_eq!(
        of("key = \"account_id\""),
        (vec![1], vec![1], OperationOf::Nothing, format!("source transactions   http, changes per account_id, {rest}"))
    );
    assert_eq!(
        of("key = [\"kind\", \"account_id\"]\noperation = \"op\""),
        (
            vec![4, 1],
            vec![1, 4],
            OperationOf::Field("op".into()),
            format!("source transactions   http, changes per kind, account_id by op, {rest}")
        )
    );
    let (.., operation, line) = of("key = \"account_id\"\noperation = \"kind\"");
    assert_eq!((operation, line), (OperationOf::Column(4), format!("source transactions   http, changes per account_id by kind, {rest}")));
    let (.., operation, line) = of("key = \"account_id\"\nenvelope = \"debezium\"");
    assert_eq!(operation, OperationOf::Debezium);
    assert_eq!(line, format!("source transactions   http, changes per account_id in debezium's envelope, {rest}"));
}

/// One change of the definitions, and what must be said: the code, the line (a part of it) and a part of the hint.
type Broken = (&'static str, &'static str, &'static str, &'static str, &'static str);

const BROKEN: &[Broken] = &[
    // The file.
    ("[server]", "[server", "syntax", "[server", "quotes"),
    ("name = \"lender\"", "name = \"lender\"\nname = \"lender\"", "duplicate", "name = \"lender\"", "rename"),
    ("[features.borrower]", "[features.account]", "duplicate", "[features.account]", "rename"),
    ("[server]", "[servers]", "unknown_section", "[servers]", "did you mean `server`"),
    ("[snapshot]", "[spark]", "unknown_section", "[spark]", "valid here"),
    ("[project]\nname = \"lender\"", "[project]", "missing", "[project]", "name = "),
    ("name = \"lender\"", "name = \"The Lender\"", "bad_name", "The Lender", "lower-case"),
    ("clock = \"event\"", "clock = \"events\"", "unknown_word", "clock", "did you mean `event`"),
    ("listen = \"127.0.0.1:9000\"", "listen = \"localhost\"", "bad_address", "listen", "127.0.0.1:8080"),
    ("max_body = \"8MiB\"", "max_body = 8000000", "bad_size", "max_body", "16MiB"),
    ("max_body = \"8MiB\"", "max_body = \"8 megs\"", "bad_size", "max_body", "16MiB"),
    ("max_body = \"8MiB\"", "max_bodi = \"8MiB\"", "unknown_key", "max_bodi", "did you mean `max_body`"),
    ("every = \"30s\"", "every = 30", "bad_span", "every = 30", "90s"),
    ("every = \"30s\"", "keep = 0", "out_of_range", "keep = 0", "between 1 and 1000"),
    ("[snapshot]\nevery = \"30s\"", "[log]\nsegment = \"1KiB\"", "out_of_range", "segment", "1MiB"),
    // Sources.
    (
        "[source.transactions]",
        "[source.Trans-actions]\ntime = \"arrival\"\ncolumns = { a = \"int64\" }\n[source.transactions]",
        "bad_name",
        "[source.Trans-actions]",
        "trans_actions",
    ),
    ("time = \"booked_at\"\n", "", "missing", "[source.transactions]", "booked_at"),
    ("time = \"booked_at\"", "time = \"booked_on\"", "unknown_column", "time = \"booked_on\"", "did you mean `booked_at`"),
    ("time = \"booked_at\"", "time = \"amount\"", "wrong_type", "time = \"amount\"", "booked_at"),
    ("time = \"booked_at\"", "time = 7", "wrong_type", "time = 7", "time = \"...\""),
    ("id = \"transaction_id\"", "id = \"transactionid\"", "unknown_column", "transactionid", "did you mean `transaction_id`"),
    ("id = \"transaction_id\"", "id = \"booked_at\"", "wrong_type", "id = \"booked_at\"", "text or a whole number"),
    ("amount = \"float64\", kind", "amount = \"double\", kind", "unknown_type", "\"double\"", "did you mean `float64`"),
    ("amount = { type = \"float64\", required = true }", "amount = { typ = \"float64\" }", "unknown_key", "typ =", "did you mean `type`"),
    ("amount = \"float64\", kind", "amount = \"list<float64>\", kind", "unknown_type", "list<float64>", "one column per value"),
    ("months = \"int64\"", "months = \"map<string, float64>\"", "unknown_type", "map<string", "leave the field undeclared"),
    ("months = \"int64\"", "months = 64", "wrong_type", "months = 64", "int64"),
    ("lateness = \"1d\"", "lateness = \"1 day\"", "bad_span", "lateness", "7d"),
    ("lateness = \"1d\"", "latness = \"1d\"", "unknown_key", "latness", "did you mean `lateness`"),
    ("lateness = \"1d\"", "connector = \"pulsar\"", "unknown_word", "pulsar", "valid here: http, file, kafka"),
    ("lateness = \"1d\"", "connector = \"file\"", "missing", "[source.transactions]", "path = "),
    ("lateness = \"1d\"", "connector = \"file\"\npath = \"x.dat\"", "missing", "path = \"x.dat\"", "format = "),
    ("lateness = \"1d\"", "path = \"x.csv\"", "misplaced", "path = \"x.csv\"", "connector = \"file\""),
    ("lateness = \"1d\"", "max_future = \"never\"", "bad_span", "never", "90s"),
    ("lateness = \"1d\"", "key = \"acount_id\"", "unknown_column", "acount_id", "did you mean `account_id`"),
    ("lateness = \"1d\"", "key = [\"account_id\", \"booked_at\"]", "wrong_type", "booked_at", "transaction_id, account_id, kind"),
    ("lateness = \"1d\"", "key = [\"account_id\", \"account_id\"]", "duplicate", "key =", "once"),
    ("lateness = \"1d\"", "key = 7", "wrong_type", "key = 7", "key = "),
    ("lateness = \"1d\"", "key = \"transaction_id\"", "misplaced", "id = \"transaction_id\"", "different in every change"),
    ("lateness = \"1d\"", "operation = \"kind\"", "missing", "operation =", "key = \"account_id\""),
    ("lateness = \"1d\"", "envelope = \"debezium\"", "missing", "envelope =", "key = \"account_id\""),
    ("lateness = \"1d\"", "key = \"account_id\"\noperation = \"amount\"", "wrong_type", "operation =", "insert, update and delete"),
    ("lateness = \"1d\"", "key = \"account_id\"\noperation = \"\"", "empty", "operation =", "leave the line out"),
    ("lateness = \"1d\"", "key = \"account_id\"\nenvelope = \"debesium\"", "unknown_word", "debesium", "did you mean `debezium`"),
    (
        "lateness = \"1d\"",
        "key = \"account_id\"\noperation = \"kind\"\nenvelope = \"debezium\"",
        "misplaced",
        "operation =",
        "leave `operation` out",
    ),
    (
        "lateness = \"1d\"",
        "connector = \"file\"\npath = \"x.csv\"\nkey = \"account_id\"\nenvelope = \"debezium\"",
        "misplaced",
        "envelope =",
        "NDJSON",
    ),
    // Views.
    ("source = \"transactions\"", "source = \"transaction\"", "unknown_source", "source = \"transaction\"", "did you mean `transactions`"),
    ("entity = \"account_id\"\nwhere", "entity = \"acount_id\"\nwhere", "unknown_column", "acount_id", "did you mean `account_id`"),
    ("entity = \"account_id\"\nwhere", "entity = \"amount\"\nwhere", "bad_entity", "entity = \"amount\"", "transaction_id, account_id"),
    ("kind <> 'test'", "kindd <> 'test'", "unknown_column", "kindd", "did you mean `kind`"),
    ("where = \"kind", "hop = \"1ms\"\nwhere = \"kind", "bad_hop", "hop = \"1ms\"", "1s"),
    ("sum(abs(amount)) over 7d", "sum(abs(amuont)) over 7d", "unknown_column", "amuont", "did you mean `amount`"),
    ("sum(abs(amount)) over 7d", "summ(abs(amount)) over 7d", "unknown_aggregate", "summ", "did you mean `sum`"),
    ("sum(abs(amount)) over 7d", "sum(abs(amount)) over 7", "bad_span", "over 7\"", "7d"),
    ("count(*) over 1d, 7d", "count(*", "syntax", "count(*", "a feature reads"),
    ("default = 0 }", "defualt = 0 }", "unknown_key", "defualt", "did you mean `default`"),
    ("where = \"kind", "ttl = \"1ms\"\nwhere = \"kind", "bad_ttl", "ttl = \"1ms\"", "from 1s"),
    ("where = \"kind", "time_zone = \"Europe/Pragu\"\nwhere = \"kind", "unknown_time_zone", "Europe/Pragu", "did you mean `Europe/Prague`"),
    ("where = \"kind", "derived = { a = \"turnover_7d / cuont\" }\nwhere = \"kind", "unknown_column", "cuont", "txn_count"),
    (
        "where = \"kind",
        "derived = { turnover_7d = \"txn_count_1d\" }\nwhere = \"kind",
        "duplicate_feature",
        "turnover_7d = \"txn",
        "another name",
    ),
    ("where = \"kind", "derived = { a = 5 }\nwhere = \"kind", "wrong_type", "a = 5", "txn_count_1h"),
    ("count(*) over 1d, 7d", "count(*) over fortnight", "bad_span", "fortnight", "7d"),
    ("count(*) over 1d, 7d", "count(*) over last 0", "bad_window", "last 0", "last 10"),
    ("count(*) over 1d, 7d", "count(*) over session 1h max 5m", "bad_window", "session 1h", "below the gap"),
    ("count(*) over 1d, 7d", "count(*) over 7d exact hop 1h", "bad_hop", "7d exact", "line of its own"),
    ("count(*) over 1d, 7d", "min(amount) over decay 1d", "not_supported", "min(amount)", "count, sum"),
    ("count(*) over 1d, 7d", "last(kind) by kind over 1d", "not_supported", "last(kind)", "one line per category"),
    ("count(*) over 1d, 7d", "sum(amount) by amount over 1d", "type_mismatch", "by amount", "case when"),
    ("count(*) over 1d, 7d", "histogram(amount, 3, 2)", "bad_literal", "2)", "10, 100"),
    ("count(*) over 1d, 7d", "argmax(amount, kind)", "type_mismatch", "kind)", "argmax(merchant, amount)"),
    ("last_kind = \"last(kind)\"", "last_kind = 5", "wrong_type", "last_kind = 5", "count(*)"),
    (
        "[features.borrower]",
        "[features.applications]\nsource = \"transactions\"\nentity = \"account_id\"\ncolumns = { n = \"count(*)\" }\n[features.borrower]",
        "duplicate",
        "[features.applications]",
        "entity",
    ),
    // Models.
    ("on = \"applications\"", "on = \"application\"", "unknown_source", "on = \"application\"", "did you mean `applications`"),
    ("on = \"applications\"\n", "", "missing", "[model.default_risk]", "on = "),
    ("learner = \"gbdt\"", "learner = \"gdbt\"", "unknown_word", "gdbt", "did you mean `gbdt`"),
    ("learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }", "learner = \"logistic\"", "misplaced", "monotone", "gbdt"),
    ("learner = \"gbdt\"\nparams = { trees = 50, learning_rate = 0.1 }", "learner = \"forest\"", "misplaced", "monotone", "gbdt"),
    ("trees = 50", "tree = 50", "unknown_param", "tree = 50", "did you mean `trees`"),
    ("trees = 50", "trees = 0.5", "wrong_type", "trees = 0.5", "default is 300"),
    ("trees = 50", "trees = 0", "out_of_range", "trees = 0", "1 to 100000"),
    ("learning_rate = 0.1", "seed = 5", "misplaced", "seed = 5", "beside `params`"),
    ("\"account.*\"", "\"acount.*\"", "unknown_view", "acount.*", "did you mean `account`"),
    ("\"account.*\"", "\"account.turnover_8d\"", "unknown_column", "turnover_8d", "did you mean `account.turnover_7d`"),
    ("\"account.*\"", "\"applications.*\"", "all_of_source", "applications.*", "applications.amount"),
    ("\"account.*\"", "\"account.last_kind\"", "wrong_type", "\"account.last_kind\"", "is_it = account.last_kind = 'x'"),
    ("\"account.*\"", "\"account.last_kind\"", "wrong_type", "\"account.last_kind\"", "categorical = [\"last_kind\"]"),
    ("window = \"14d\"", "categorical = [\"last_kin\"]", "unknown_input", "\"last_kin\"", "account.turnover_7d"),
    ("window = \"14d\"", "categorical = [\"burden\"]", "misplaced", "\"burden\"", "`monotone` or of `categorical`"),
    ("window = \"14d\"", "categorical = [\"amount\"]", "wrong_type", "\"amount\"", "cast"),
    ("window = \"14d\"", "categorical = \"last_kind\"", "wrong_type", "categorical", "[\"...\", \"...\"]"),
    ("\"account.*\"", "\"applied_at\"", "wrong_type", "\"applied_at\"", "hour(applied_at)"),
    ("\"account.*\"", "\"borrower.*\"", "out_of_reach", "borrower.*", "keys = { borrower"),
    ("\"account.*\"", "\"account.turnover_7d / amount\"", "unnamed_input", "turnover_7d / amount", "burden = account.turnover_7d / amount"),
    ("\"amount\",", "\"amount\", \"applications.amount\",", "duplicate", "\"applications.amount\"", "twice"),
    ("burden = amount / account", "burden = amount / acount", "unknown_column", "acount.turnover_7d", "did you mean `account.turnover_7d`"),
    ("burden = amount / account.turnover_7d", "burden = borrower.defaults * 2", "out_of_reach", "borrower.defaults", "keys = { borrower"),
    ("inputs = [", "inputs = [7,", "wrong_type", "inputs = [7", "inputs = ["),
    ("is_rent = account.last_kind = 'rent'", "kind = 'rent'", "wrong_type", "kind = 'rent'", "is_it"),
    ("source = \"repayments\", value", "source = \"repayment\", value", "unknown_source", "repayment\"", "did you mean `repayments`"),
    ("value = \"defaulted\"", "value = \"default\"", "unknown_column", "value = \"default\"", "did you mean `repayments.defaulted`"),
    ("value = \"defaulted\"", "value = \"loan_id\"", "wrong_type", "value = \"loan_id\"", "compare it"),
    ("{ application_id = \"loan_id\" }", "{ application_id = \"loanid\" }", "unknown_column", "\"loanid\"", "did you mean `loan_id`"),
    ("{ application_id = \"loan_id\" }", "\"application_id\"", "unknown_column", "on = \"application_id\"", "valid here"),
    ("{ application_id = \"loan_id\" }", "\"account_id\"", "key_type", "on = \"account_id\"", "same type"),
    (", within = \"21d\"", "", "missing", "label =", "within = \"30d\""),
    ("within = \"21d\"", "within = \"0d\"", "out_of_range", "within = \"0d\"", "7d"),
    ("within = \"21d\"", "within = \"21d\", absent = 2", "out_of_range", "absent = 2", "absent = 0"),
    ("window = \"14d\"", "calibration = \"isotonik\"", "unknown_word", "\"isotonik\"", "did you mean `isotonic`"),
    ("window = \"14d\"", "calibration = \"prior_shift\"", "missing", "\"prior_shift\"", "target_rate = 0.02"),
    ("window = \"14d\"", "calibration = { method = \"platt\", target_rate = 1 }", "out_of_range", "target_rate = 1", "below 1"),
    ("window = \"14d\"", "calibration = { share = 0.5 }", "missing", "calibration = {", "one of platt"),
    ("window = \"14d\"", "reason_groups = { money = \"amont\" }", "unknown_input", "\"amont\"", "amount"),
    ("window = \"14d\"", "reason_groups = { money = [\"amount\", \"acount.*\"] }", "unknown_input", "acount.*", "account.turnover_7d"),
    ("window = \"14d\"", "reason_groups = { burden = \"amount\" }", "duplicate", "burden = \"amount\"", "another name"),
    ("window = \"14d\"", "reason_groups = { a = \"account.*\", b = \"account.turn*\" }", "duplicate", "account.turn*", "one of the two"),
    ("window = \"14d\"", "search = { folds = 3 }", "missing", "search = {", "fits = 40"),
    ("window = \"14d\"", "search = { fits = 4 }", "out_of_range", "fits = 4", "fits = 30"),
    ("window = \"14d\"", "search = { fits = 40, metric = \"acu\" }", "unknown_word", "\"acu\"", "did you mean `auc`"),
    ("window = \"14d\"", "search = { fits = 40, space = { leavs = [7] } }", "unknown_param", "leavs", "did you mean `leaves`"),
    ("window = \"14d\"", "search = { fits = 40, space = { leaves = 7 } }", "wrong_type", "leaves = 7", "from = 1, to = 100"),
    ("window = \"14d\"", "search = { fits = 40, space = { leaves = [1, 7] } }", "out_of_range", "leaves = [1, 7]", "2 to 65536"),
    (
        "window = \"14d\"",
        "search = { fits = 40, space = { learning_rate = { from = 0.0, to = 1.0, log = true } } }",
        "out_of_range",
        "learning_rate = { from",
        "from = 0.01",
    ),
    ("window = \"14d\"", "holdout = 1.5", "out_of_range", "holdout = 1.5", "between 0 and 0.9"),
    ("window = \"14d\"", "keys = { acount = \"account_id\" }", "unknown_view", "acount =", "did you mean `account`"),
    ("window = \"14d\"", "keys = { account = \"acount_id\" }", "unknown_column", "acount_id", "did you mean `account_id`"),
    ("window = \"14d\"", "keys = { account = \"application_id\" }", "key_type", "\"application_id\" }", "same type"),
    ("window = \"14d\"", "keys = { account = [\"account_id\", \"amount\"] }", "wrong_key", "keys =", "one column for each"),
    ("burden = \"increasing\"", "burdn = \"increasing\"", "unknown_input", "burdn", "did you mean `burden`"),
    ("burden = \"increasing\"", "burden = \"up\"", "unknown_word", "\"up\"", "increasing"),
    // Decisions.
    ("model = \"default_risk\"\npolicy", "model = \"default_rsk\"\npolicy", "unknown_model", "default_rsk", "did you mean `default_risk`"),
    ("score >= 0.20", "scor >= 0.20", "unknown_column", "scor >= 0.20", "did you mean `score`"),
    ("score >= 0.20", "score", "not_a_condition", "\"score\"", "score >= 0.5"),
    ("score >= 0.20", "score >= '0.20'", "type_mismatch", "score >= '0.20'", "quotes"),
    (", outcome = \"decline\"", "", "missing", "score >= 0.20", "outcome"),
    ("\"decline\"", "\"turn down\"", "bad_name", "turn down", "manual_review"),
    ("    { outcome = \"approve\" },\n", "", "undecided", "score >= 0.08", "without `when`"),
    (
        "{ when = \"score >= 0.20\", outcome = \"decline\" }",
        "{ outcome = \"decline\" }",
        "unreachable",
        "{ outcome = \"decline\" }",
        "last",
    ),
    ("fallback = \"ask\"", "on = \"transactions\"", "conflict", "on = \"transactions\"", "on = \"applications\""),
    ("fallback = \"ask\"", "keys = { account = \"account_id\" }", "misplaced", "keys = ", "[model.default_risk]"),
    ("model = \"default_risk\"\npolicy", "on = \"applications\"\npolicy", "no_score", "score >= 0.20", "model"),
    ("fallback = \"ask\"", "reasons = 99", "out_of_range", "reasons = 99", "between 0 and 32"),
    ("model = \"default_risk\"\npolicy", "policy", "missing", "[decision.loan]", "rules alone"),
    // Schedules and monitors.
    ("auc > champion.auc - 0.002", "auc >", "syntax", "auc >", "expressions.md"),
    ("every = \"7d\"\n", "", "missing", "[schedule.retrain]", "cron"),
    ("every = \"7d\"", "cron = \"every monday\"", "bad_cron", "every monday", "Mondays"),
    ("every = \"7d\"", "every = \"7d\"\ncron = \"0 3 * * 1\"", "conflict", "cron =", "one of the two"),
    // Views that read other views.
    (
        "last_kind = \"last(kind)\"",
        "last_kind = \"last(kind)\"\nrisky = \"sum(amount * borrower.defaults)\"",
        "out_of_reach",
        "borrower.defaults",
        "keys = { borrower = ",
    ),
    (
        "last_kind = \"last(kind)\"",
        "last_kind = \"last(kind)\"\n[features.account.keys]\nborrower = \"kind\"\n[features.account.columns.risky]\nvalue = \"sum(amount * borrower.default)\"",
        "unknown_column",
        "borrower.default)",
        "did you mean `borrower.defaults`",
    ),
    (
        "last_kind = \"last(kind)\"",
        "last_kind = \"last(kind)\"\n[features.account.derived]\nrisky = \"borrower.defaults + 1\"",
        "out_of_reach",
        "borrower.defaults",
        "read `borrower` in a line of `columns`",
    ),
    (
        "[features.account.columns]",
        "keys = { borower = \"kind\" }\n[features.account.columns]",
        "unknown_view",
        "borower",
        "did you mean `borrower`",
    ),
    (
        "[features.account.columns]",
        "keys = { borrower = \"amount\" }\n[features.account.columns]\nrisky = \"sum(borrower.defaults)\"",
        "key_type",
        "borrower = \"amount\"",
        "same type",
    ),
    (
        "columns = { defaults = \"count(*) where defaulted\" }",
        "where = \"borrower.defaults > 0\"\ncolumns = { defaults = \"count(*) where defaulted\" }",
        "unknown_column",
        "borrower.defaults",
        "valid here: loan_id",
    ),
    ("train = \"default_risk\"", "train = \"defaults\"", "unknown_model", "train = \"defaults\"", "default_risk"),
    ("auc > champion.auc", "auc > champion.au", "unknown_column", "champion.au ", "did you mean `champion.auc`"),
    ("auc > champion.auc - 0.002", "auc - 1", "not_a_condition", "auc - 1", "compare"),
    ("signal = \"psi\"", "signal = \"ps\"", "unknown_word", "signal = \"ps\"", "did you mean `psi`"),
    ("above = 0.2\n", "", "missing", "[monitor.drift]", "below"),
    ("above = 0.2\n", "above = \"0.2\"\n", "wrong_type", "above = \"0.2\"", "without quotes"),
    ("above = 0.2\n", "above = 0.2\nbelow = 0.5\n", "conflict", "below = 0.5", "smaller"),
    ("[monitor.drift]", "[monitor.same]\nkind = \"self-chek\"\n[monitor.drift]", "unknown_word", "self-chek", "did you mean `self-check`"),
    ("[monitor.drift]", "[monitor.same]\nkind = \"self-check\"\nsample = 2\n[monitor.drift]", "out_of_range", "sample = 2", "between"),
    (
        "[monitor.drift]",
        "[monitor.same]\nkind = \"self-check\"\nsampel = 0.1\n[monitor.drift]",
        "unknown_key",
        "sampel",
        "did you mean `sample`",
    ),
    ("[monitor.drift]", "[monitor.quiet]\nkind = \"silence\"\n[monitor.drift]", "missing", "[monitor.quiet]", "the source to watch"),
    (
        "[monitor.drift]",
        "[monitor.quiet]\nkind = \"silence\"\nsource = \"transaction\"\n[monitor.drift]",
        "unknown_source",
        "\"transaction\"",
        "did you mean `transactions`",
    ),
    (
        "[monitor.drift]",
        "[monitor.quiet]\nkind = \"silence\"\nsource = \"transactions\"\nafter = \"soon\"\n[monitor.drift]",
        "bad_span",
        "soon",
        "90s",
    ),
    // Services.
    ("\"borrower.*\"", "\"borrowr.*\"", "unknown_view", "borrowr", "did you mean `borrower`"),
    ("\"account.txn_count_7d\"", "\"account.txn_cuont_7d\"", "unknown_column", "txn_cuont_7d", "did you mean `account.txn_count_7d`"),
    ("\"account.txn_count_7d\"", "\"txn_count_7d\"", "unqualified", "\"txn_count_7d\"", "VIEW.txn_count_7d"),
    ("\"account.txn_count_7d\"", "\"account.*\", \"account.last_kind\"", "duplicate", "account.last_kind", "`.*` holds it already"),
    ("\"rate = account.turnover_7d", "\"account.turnover_7d", "unnamed_feature", "account.turnover_7d /", "name it"),
    ("\"rate = account.turnover_7d", "\"rate = acount.turnover_7d", "unknown_view", "acount", "did you mean `account`"),
    ("\"rate = account.turnover_7d", "\"rate = account.last_kind", "type_mismatch", "last_kind", "cast it"),
    ("keys = { borrower = \"name\" }", "", "key_type", "borrower.*", "give it another name"),
    ("keys = { borrower = \"name\" }", "keys = { borrower = [\"a\", \"b\"] }", "wrong_key", "keys", "one name for each of: account_id"),
    (
        "keys = { borrower = \"name\" }",
        "keys = { borrower = \"name\", borower = \"x\" }",
        "unknown_view",
        "borower",
        "did you mean `borrower`",
    ),
    ("[service.overview]", "[service.account]", "duplicate", "[service.account]", "what it is for"),
    ("[service.overview]", "[service.repayments]", "duplicate", "[service.repayments]", "what it is for"),
    ("\"account.*\",\n", "\"overview.*\",\n", "out_of_reach", "overview.*", "account_id"),
    ("\"retrain\"]", "\"retrian\"]", "unknown_word", "retrian", "did you mean `retrain`"),
];

#[test]
fn every_mistake_is_found_where_it_is_and_says_what_helps() {
    let mut failures = Vec::new();
    for (from, to, code, line, hint) in BROKEN {
        let text = edited(from, to);
        let Err(report) = check(&text) else {
            failures.push(format!("`{to}` is accepted, {code} expected"));
            continue;
        };
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{report}\n");
        }
        let found = report.problems.iter().any(|d| {
            let shown = text.lines().nth(d.line.wrapping_sub(1)).unwrap_or_default();
            d.code == *code && shown == d.excerpt && shown.contains(line) && d.hint.as_ref().is_some_and(|h| h.contains(hint))
        });
        if !found {
            failures.push(format!("`{to}`: {code} at `{line}` with hint `{hint}` expected, found\n{report}"));
        } else if report.errors() != 1 {
            failures.push(format!("`{to}`: one mistake, but\n{report}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn views_that_read_each_other_in_a_circle_are_all_told() {
    let text = edited(
        "columns = { defaults = \"count(*) where defaulted\" }",
        "columns = { defaults = \"count(*) where defaulted\", rich = \"max(account.turnover_7d)\" }\nkeys = { account = \"loan_id\" }",
    )
    .replace("last_kind = \"last(kind)\"", "last_kind = \"last(kind)\"\nrisky = \"sum(amount * borrower.defaults)\"");
    let report = check(&text).unwrap_err();
    let circles: Vec<_> = report.problems.iter().filter(|d| d.code == "circle").map(|d| d.message.clone()).collect();
    assert_eq!(circles.len(), 2, "{report}");
    assert!(circles[0].contains("\"account\" reads borrower"), "{report}");
}

#[test]
fn a_text_that_looks_like_a_view_is_none_and_a_quoted_view_is_one() {
    // Were the texts readings, these two would read each other.
    let text = edited("last_kind = \"last(kind)\"", "last_kind = \"last(kind)\"\nodd = \"count(*) where kind = 'borrower.x'\"")
        .replace("count(*) where defaulted", "count(*) where defaulted and loan_id <> 'account.y'");
    assert!(sound(&text).plan.views.iter().all(|v| v.needs().count() == 0));
    let text = edited("last_kind = \"last(kind)\"", "last_kind = \"last(kind)\"\nrisky = 'sum(\"borrower\" . \"defaults\")'")
        .replace("[features.account.columns]", "keys = { borrower = \"kind\" }\n[features.account.columns]");
    assert_eq!(sound(&text).plan.views[0].needs().collect::<Vec<_>>(), ["borrower"]);
}

#[test]
fn a_view_over_changing_rows_reads_no_other() {
    let text = edited("id = \"transaction_id\"", "key = \"transaction_id\"").replace(
        "[features.account.columns]",
        "keys = { borrower = \"kind\" }\n[features.account.columns]\nrisky = \"sum(borrower.defaults)\"",
    );
    let report = check(&text).unwrap_err();
    assert!(
        report.problems.iter().any(|d| d.code == "not_supported" && d.hint.as_ref().is_some_and(|h| h.contains("leave the lookup out"))),
        "{report}"
    );
}

#[test]
fn personal_data_is_followed_from_columns_to_models_and_changes_no_meaning() {
    let plain = r#"
        [project]
        name = "shop"
        [source.payments]
        time = "at"
        columns = { customer = "int64", shop = "string", email = "string", at = "timestamp", amount = "float64" }
        [features.customer]
        source = "payments"
        entity = "customer"
        columns = { sum = "sum(amount) over 7d, 30d", mails = "approx_distinct(email)" }
        derived = { share = "sum_7d / sum_30d", often = "mails > 3" }
        [features.shop]
        source = "payments"
        entity = "shop"
        columns = { mean = "mean(amount) over 7d", mails = "count(*) where email is not null over 7d", told = "count(*) where email = 'amount'", richer = "count(*) where amount > customer.sum_7d over 7d" }
        [service.both]
        features = ["customer.share", "shop.mean_7d", "x = shop.mails_7d + customer.sum_7d"]
        [model.m]
        on = "payments"
        inputs = ["shop.mean_7d", "n = length(payments.email)", "payments.amount"]
        label = { source = "payments", value = "amount > 10", on = "shop", within = "1d" }
    "#;
    let tagged = plain
        .replace("email = \"string\"", "email = { type = \"string\", personal_data = true }")
        .replace(
            "told = \"count(*) where email = 'amount'\"",
            "told = { value = \"count(*) where email = 'amount'\", personal_data = false }",
        )
        .replace("on = \"payments\"\n", "on = \"payments\"\nowner = \"risk\"\n");
    let project = sound(&tagged);
    let personal = kilter_runtime::project::PersonalData::of(&project);
    let told = |project: &Project, personal: &kilter_runtime::project::PersonalData| {
        let mut all = Vec::new();
        for (v, view) in project.plan.views.iter().enumerate() {
            for (f, feature) in view.features().iter().enumerate() {
                let columns: Vec<&str> = personal.feature(v, f).iter().map(String::as_str).collect();
                if !columns.is_empty() {
                    all.push(format!("{}.{} by {}", view.name(), feature.name, columns.join(", ")));
                }
            }
        }
        all
    };
    assert_eq!(
        told(&project, &personal),
        ["customer.mails by payments.email", "customer.often by payments.email", "shop.mails_7d by payments.email"]
    );
    let text = graph(&project);
    assert!(text.lines().any(|l| l.starts_with("  email ") && l.ends_with(" personal data")), "{text}");
    let of_service = |l: &str| l.starts_with("  x ") && l.ends_with("  shop.mails_7d + customer.sum_7d  personal data by payments.email");
    assert!(text.lines().any(of_service), "{text}");
    assert!(text.lines().any(|l| l.starts_with("  n ") && l.ends_with("personal data by payments.email")), "{text}");
    // By the key of its entity all of a view is, and what reads it.
    let keyed = sound(&plain.replace("customer = \"int64\"", "customer = { type = \"int64\", personal_data = true }"));
    let all = told(&keyed, &kilter_runtime::project::PersonalData::of(&keyed));
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(all.contains(&"shop.richer_7d by payments.customer".to_string()), "{all:?}");
    // None of it means anything to results.
    assert_eq!(project.hash(), sound(plain).hash());
    let beside: Vec<String> = kilter_runtime::project::beside(&sound(plain), &project).into_iter().map(|d| d.what).collect();
    assert_eq!(beside, ["features.shop.columns.told.personal_data", "model.m.owner", "source.payments.columns.email.personal_data"]);
}

#[test]
fn the_order_of_views_that_read_others_is_found() {
    // `account` comes before `borrower` by name, and reads it.
    let text = edited("last_kind = \"last(kind)\"", "last_kind = \"last(kind)\"\nrisky = \"sum(amount * borrower.defaults)\"")
        .replace("[features.account.columns]", "keys = { borrower = \"kind\" }\n[features.account.columns]");
    let project = sound(&text);
    let names: Vec<_> = project.plan.views.iter().map(|v| v.name().to_owned()).collect();
    assert_eq!(names, ["account", "borrower"]);
    assert_eq!(project.plan.views[0].needs().collect::<Vec<_>>(), ["borrower"]);
    assert_eq!(project.plan.with_needs([0]), [0, 1]);
    assert!(graph(&project).contains("reads features borrower as they are when an event comes"));
    // What it reads is part of what it is.
    let other = sound(&text.replace("count(*) where defaulted", "count(*) where not defaulted"));
    assert_ne!(project.plan.views[0].state_name(), other.plan.views[0].state_name());
}

/// Six slips in one file; none of them hides another, and nothing is said twice.
const SIX_SLIPS: &str = r#"[project]
name = "lender"

[source.transactions]
time = "booked_at"
columns = { account_id = "int64", booked_at = "timestamp", amount = "float64" }
latness = "1d"

[source.applications]
time = "applied_at"
columns = { application_id = "string", account_id = "int64", applied_at = "timestamp", amount = "float" }

[source.repayments]
time = "seen_at"
columns = { application_id = "string", seen_at = "timestamp", defaulted = "bool" }

[features.account]
source = "transactions"
entity = "account_id"
[features.account.columns]
txn_count = "count(*) over 7d"
turnover = "sum(amuont) over 7d"

[model.default_risk]
on = "applications"
inputs = ["account.*", "applications.amount", "burden = amount / account.turnover_7d"]
label = { source = "repayment", value = "defaulted", on = "application_id", within = "21 days" }

[decision.loan]
model = "default_risk"
policy = [{ when = "score >= 0.2 and turnover_7d < 100", outcome = "decline" }, { outcome = "approve" }]

[monitor.drift]
model = "default-risk"
signal = "psi"
above = 0.2
"#;

const SIX_COMPLAINTS: &str = r#"error[unknown_key]: unknown key `latness` in source "transactions"
 --> kilter.toml:7:1
  |
7 | latness = "1d"
  | ^^^^^^^
  = hint: did you mean `lateness`?

error[unknown_type]: unknown type `float`
  --> kilter.toml:11:97
   |
11 | columns = { application_id = "string", account_id = "int64", applied_at = "timestamp", amount = "float" }
   |                                                                                                 ^^^^^^^
   = hint: did you mean `float64`? The types are bool, int64, float64, string, timestamp

error[unknown_column]: feature view "account", column "turnover": unknown column `amuont`
  --> kilter.toml:22:17
   |
22 | turnover = "sum(amuont) over 7d"
   |                 ^^^^^^
   = hint: did you mean `amount`?

error[unknown_source]: the label of model "default_risk": unknown source `repayment`
  --> kilter.toml:27:20
   |
27 | label = { source = "repayment", value = "defaulted", on = "application_id", within = "21 days" }
   |                    ^^^^^^^^^^^
   = hint: did you mean `repayments`?

error[bad_span]: `within` of the label is not a length of time: "21 days"
  --> kilter.toml:27:86
   |
27 | label = { source = "repayment", value = "defaulted", on = "application_id", within = "21 days" }
   |                                                                                      ^^^^^^^^^
   = hint: a number with a unit in quotes: "90s", "15m", "1h", "7d", "2w", "1d12h"

error[unknown_model]: monitor "drift": unknown model `default-risk`
  --> kilter.toml:34:9
   |
34 | model = "default-risk"
   |         ^^^^^^^^^^^^^^
   = hint: did you mean `default_risk`?

6 errors in kilter.toml"#;

#[test]
fn one_reading_shows_all_mistakes() {
    let report = check(SIX_SLIPS).unwrap_err();
    assert_eq!(report.to_string(), SIX_COMPLAINTS, "\n{report}");
}

#[test]
fn a_broken_view_does_not_accuse_those_who_use_it() {
    // `txn_count` cannot be compiled, so nothing is said of account.*, burden and the rest, in whatever way they name it.
    let text = edited("count(*) over 1d, 7d", "count(*) ove 1d").replace("amount > 1000", "turnover_7d > 1000 and account.turnover_7d > 5");
    let report = check(&text).unwrap_err();
    assert_eq!(report.errors(), 1, "{report}");
}

#[test]
fn places_inside_strings_are_found_through_escapes_and_lines() {
    for (definition, line, column, length) in [
        (r#"turnover = "sum(if(kind = '\u00e9', amuont, 0)) over 7d""#, 0, 37, 6),
        ("turnover = '''\nsum(amuont)\nover 7d'''", 1, 5, 6),
        ("turnover = \"\"\"sum( \\\n      amuont) over 7d\"\"\"", 1, 7, 6),
    ] {
        let text = edited("turnover = { value = \"sum(abs(amount)) over 7d\", default = 0 }", definition);
        let report = check(&text).unwrap_err();
        let start = text.lines().position(|l| l.starts_with("turnover")).unwrap() + 1;
        let at = report.problems.iter().find(|d| d.message.contains("amuont")).unwrap_or_else(|| panic!("{report}"));
        assert_eq!((at.line, at.column, at.length), (start + line, column, length), "{report}");
    }
}

#[test]
fn doubts_are_warnings() {
    let text =
        format!("{LENDER}\n[source.spare]\nconnector = \"file\"\npath = \"spare.csv\"\ntime = \"t\"\ncolumns = {{ t = \"timestamp\" }}\n");
    let project = sound(&text);
    let codes: Vec<(&str, Severity)> = project.warnings.iter().map(|d| (d.code, d.severity)).collect();
    assert_eq!(codes, [("unused_source", Severity::Warning), ("missing_file", Severity::Warning)]);
    assert_eq!(project.source_file(project.plan.source("spare").unwrap()).as_deref(), Some(Path::new("/nowhere/spare.csv")));
}

#[test]
fn a_folder_without_definitions_says_how_to_get_some() {
    let dir = tempfile::tempdir().unwrap();
    let report = load(dir.path()).unwrap_err().to_string();
    assert!(report.contains("there is no kilter.toml") && report.contains("kilter new"), "{report}");
    std::fs::write(dir.path().join(FILE_NAME), [0xff, 0xfe]).unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(dir.path().join(FILE_NAME), "").unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("no section [project]"));
}

#[test]
fn every_template_is_sound_and_makes_a_project() {
    for template in &TEMPLATES {
        let checked = check_text(template.text, template.name, Path::new("/nowhere"));
        let project = checked.unwrap_or_else(|report| panic!("{}: {report}", template.name));
        // A file that is still to be generated is the only thing to doubt.
        assert!(project.warnings.iter().all(|w| w.code == "missing_file"), "{}: {:?}", template.name, project.warnings);
        assert_eq!(project.plan.project, template.name);

        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("My Project");
        let written = new_project(&folder, template.name).unwrap();
        assert!(written.iter().all(|path| path.exists()));
        assert_eq!(load(&folder).unwrap().plan.project, "my-project");
        let refused = new_project(&folder, template.name).unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");
    }
    let dir = tempfile::tempdir().unwrap();
    let unknown = new_project(&dir.path().join("x"), "card-frauds").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `card-fraud`"), "{unknown}");
    assert!(new_project(&dir.path().join("7up"), "blank").is_err());
    assert!(!dir.path().join("7up").exists());
}

#[test]
fn the_graph_shows_what_the_definitions_come_to() {
    let text = graph(&sound(LENDER));
    for line in [
        "source applications   http, time applied_at + interval '1 hour', lateness 1h, dedupe 1d",
        "  transaction_id  string",
        "features account   of transactions per account_id, 4 features, windows at most 0.6% longer than asked",
        "  state of an entity 15 KiB when it is full, beside the states of last",
        "  txn_count_7d  int64    7d in steps of 1h  count(*)",
        "  last_kind     string   lifetime           last(kind)",
        "service overview   3 features of account, borrower by account_id, name",
        "  rate                  float64  account.turnover_7d / account.txn_count_7d",
        "model default_risk   on applications, gbdt, up to 50 trees of 31 leaves, trained on the newest 14d, 20% held out",
        "  label defaulted of repayments by application_id within 21d; without one: left out",
        "  burden                float64  increasing  amount / account.turnover_7d",
        "decision loan   on applications, model default_risk, up to 4 reasons, ask while there is no champion",
        "  decline  when score >= 0.20",
        "schedule retrain   every 7d: train default_risk; promote if auc > champion.auc - 0.002",
        "monitor drift   psi of default_risk over 7d, every 1d, above 0.2: alert and retrain",
    ] {
        assert!(text.lines().any(|l| l == line), "no line `{line}` in\n{text}");
    }
}

/// `BLESS=1 cargo test -p kilter-runtime --test all project::` writes the file anew.
#[test]
fn the_schema_for_editors_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/kilter.schema.json");
    let text = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "stale; BLESS=1 writes it anew");
}

#[test]
fn every_key_of_the_schema_is_read_and_explained() {
    let schema = json_schema();
    let tables = [
        ("ProjectDef", "project"),
        ("ServerDef", "server"),
        ("LogDef", "log"),
        ("SnapshotDef", "snapshot"),
        ("StateDef", "state"),
        ("LakeDef", "lake"),
        ("KafkaDef", "kafka"),
        ("WorkersDef", "workers"),
        ("RegistryDef", "kafka.schema_registry"),
        ("SourceDef", "source.x"),
        ("FeaturesDef", "features.x"),
        ("ServiceDef", "service.x"),
        ("ModelDef", "model.x"),
        ("LabelDef", "model.x.label"),
        ("SearchDef", "model.x.search"),
        ("DecisionDef", "decision.x"),
        ("SinkDef", "sink.x"),
        ("ScheduleDef", "schedule.x"),
        ("MonitorDef", "monitor.x"),
    ];
    let reference = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/definitions.md")).unwrap();
    for (definition, table) in tables {
        let keys: Vec<&String> = schema["definitions"][definition]["properties"].as_object().unwrap().keys().collect();
        let text = keys.iter().fold(format!("[{table}]\n"), |text, key| format!("{text}{key} = 0\n"));
        let report = check(&text).unwrap_err();
        let unread: Vec<_> = report.problems.iter().filter(|d| d.code == "unknown_key").map(|d| &d.message).collect();
        assert!(unread.is_empty(), "[{table}]: {unread:?}");
        for key in keys {
            assert!(reference.contains(&format!("| `{key}`")), "docs/reference/definitions.md does not explain `{key}` of [{table}]");
        }
    }
    let params = schema["definitions"]["ModelDef"]["properties"]["params"]["properties"].as_object().unwrap();
    for key in params.keys() {
        assert!(reference.contains(&format!("| `{key}`")), "docs/reference/definitions.md does not explain the setting `{key}`");
    }
}

const ON_KAFKA: &str = r#"
[kafka]
brokers = ["a.example:9092", "b.example:9092, c.example:9093"]
properties = { "security.protocol" = "SASL_SSL", "sasl.password" = "${PASSWORD}" }
[sink.loans]
from = "decision.loan"
topic = "loan-decisions"
key = "account_id"
delivery = "transactional"
partitions = 6
[sink.dead]
from = "dead_letters"
topic = "dead"
"#;

fn on_kafka(changes: &[(&str, &str)]) -> String {
    let transactions = "[source.transactions]\n";
    assert_eq!(LENDER.matches(transactions).count(), 1);
    let topic = "[source.transactions]\nconnector = \"kafka\"\ntopic = \"transactions\"\nstart = \"2026-03-01T00:00:00Z\"\n";
    changes.iter().fold(LENDER.replace(transactions, topic) + ON_KAFKA, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "`{from}`");
        text.replace(from, to)
    })
}

#[test]
fn topics_and_sinks_are_read_and_change_no_meaning() {
    let project = sound(&on_kafka(&[]));
    assert_eq!(project.plan.hash, sound(LENDER).plan.hash);
    let kafka = project.definitions.kafka.as_ref().unwrap();
    assert_eq!(kafka.brokers, ["a.example:9092", "b.example:9092", "c.example:9093"]);
    let filled = kilter_runtime::project::filled("kafka", &kafka.properties, |name| (name == "PASSWORD").then(|| "secret".into())).unwrap();
    assert_eq!((filled["sasl.password"].as_str(), filled["security.protocol"].as_str()), ("secret", "SASL_SSL"));
    let missing = kilter_runtime::project::filled("kafka", &kafka.properties, |_| None).unwrap_err();
    assert!(missing.contains("environment variable PASSWORD"), "{missing}");
    let sink = project.definitions.sink.get("loans").unwrap();
    assert_eq!(sink.feed(), Some(kilter_runtime::project::Feed::Decisions(Some("loan".into()))));
}

#[test]
fn what_is_wrong_with_topics_and_sinks_is_said() {
    let cases = [
        (("topic = \"transactions\"\n", ""), "missing", "the topic to read"),
        (("\"transactions\"\nstart", "\"no blanks\"\nstart"), "bad_name", "cannot name a topic"),
        (("2026-03-01T00:00:00Z", "yesterday"), "bad_start", "\"earliest\", \"latest\", or a time"),
        (("connector = \"kafka\"\n", ""), "misplaced", "`topic` is for the connector \"kafka\""),
        (("a.example:9092\",", "a.example\","), "bad_address", "not a host with a port"),
        (("\"security.protocol\" =", "\"enable.idempotence\" ="), "misplaced", "Kilter sets `enable.idempotence` itself"),
        (("\"security.protocol\" =", "security.protocol ="), "wrong_type", "put dotted names in quotes"),
        (("from = \"decision.loan\"", "from = \"decision.lone\""), "unknown_decision", "loan"),
        (("from = \"decision.loan\"", "from = \"scores\""), "bad_feed", "decision.loan"),
        (("from = \"decision.loan\"", "from = \"decision.*\""), "misplaced", "a key is a column of one decision's source"),
        (("key = \"account_id\"", "key = \"acount_id\""), "unknown_column", "account_id"),
        (("topic = \"dead\"", "topic = \"transactions\""), "circle", "a topic of its own"),
        (("partitions = 6", "replication = 3"), "missing", "add `partitions = 6`"),
        (("delivery = \"transactional\"", "delivery = \"exactly-once\""), "unknown_word", "transactional"),
    ];
    for ((from, to), code, said) in cases {
        let report = check(&on_kafka(&[(from, to)])).unwrap_err();
        let found = report.problems.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("no `{code}` in\n{report}"));
        assert!(found.to_string().contains(said), "`{said}` is not in\n{found}");
    }
    let nowhere = on_kafka(&[]).replace("[kafka]", "[monitor]").replace("brokers", "#").replace("properties", "#");
    let report = check(&nowhere).unwrap_err();
    assert!(report.to_string().contains("the file does not say where it is"), "{report}");
}

const SHARED: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "a.example:9092"
[workers]
key = "card"
shards = 12
partitioner = "crc32"
[source.payments]
connector = "kafka"
topic = "payments"
time = "at"
columns = { card = "int64", shop = "int64", other = "int64", at = "timestamp", amount = "float64" }
[features.by_card]
source = "payments"
entity = ["shop", "card"]
columns = { n = "count(*) over lifetime" }
[decision.limit]
on = "payments"
policy = [{ when = "by_card.n > 3", outcome = "review" }, { outcome = "approve" }]
"#;

const SCORED: &str = r#"
[source.outcomes]
time = "at"
columns = { card = "int64", at = "timestamp", fraud = "bool" }
[model.risk]
on = "payments"
learner = "gbdt"
inputs = ["payments.amount"]
label = { source = "outcomes", value = "fraud", on = "card", within = "1h" }
"#;

#[test]
fn what_workers_share_belongs_to_one_key() {
    let project = sound(SHARED);
    let workers = project.definitions.workers.as_ref().unwrap();
    assert_eq!((workers.key.as_str(), workers.shards), ("card", 12));
    assert_eq!(
        project.plan.hash,
        sound(&SHARED.replace("[workers]\nkey = \"card\"\nshards = 12\npartitioner = \"crc32\"\n", "")).plan.hash
    );
    let cases = [
        (("shards = 12", ""), "missing", "the number of partitions of the topics"),
        (("shards = 12", "shards = 0"), "out_of_range", "shards"),
        (("\"crc32\"", "\"crc\""), "unknown_word", "did you mean `crc32`?"),
        (("key = \"card\"", "key = \"account\""), "missing", "source \"payments\" has no column `account`"),
        (("key = \"card\"", "key = \"amount\""), "wrong_type", "which keys no record"),
        (("key = \"card\"", "key = \"other\""), "spread", "the entities of view \"by_card\" (shop, card) lie in more than one shard"),
        (
            ("on = \"payments\"", "on = \"payments\"\nkeys = { by_card = [\"shop\", \"other\"] }"),
            "spread",
            "`decision.limit` reads view \"by_card\" by another key",
        ),
        (("[project]", "[lake]\nurl = \"lake\"\nformat = \"delta\"\n[project]"), "misplaced", "a Delta table has one writer"),
        (("shards = 12", "shards = 12\nsnapshots = \"1h\""), "missing", "snapshots of shards lie in the lake"),
        (("shards = 12", "shards = 12\nstandby = true"), "misplaced", "a copy of a shard is made of its snapshots"),
        (("shards = 12", "shards = 12\nstandby = 1"), "wrong_type", "`standby`"),
        (("shards = 12", "shards = 12\nsnapshots = \"0s\""), "out_of_range", "`snapshots` of [workers] must be longer than zero"),
        (
            ("shards = 12", "shards = 12\nsnapshots = \"1h\"\n[lake]\nurl = \"lake\"\n[state]\nmemory = \"64MiB\""),
            "misplaced",
            "of state beyond memory there are no snapshots",
        ),
        (
            ("[project]", &format!("{SCORED}[schedule.nightly]\nevery = \"1d\"\ntrain = \"risk\"\n[project]")),
            "missing",
            "`schedule.nightly` needs the events of all shards, which only a lake has",
        ),
        (
            (
                "[project]",
                &format!("{SCORED}[monitor.drift]\nmodel = \"risk\"\nsignal = \"psi\"\nabove = 0.2\nthen = [\"retrain\"]\n[project]"),
            ),
            "misplaced",
            "`monitor.drift` would train for what it sees in one shard",
        ),
        (("[kafka]\nbrokers = \"a.example:9092\"\n", ""), "missing", "add [kafka]"),
        (
            ("connector = \"kafka\"\ntopic = \"payments\"", "connector = \"file\"\npath = \"x.csv\""),
            "misplaced",
            "which several workers cannot share",
        ),
    ];
    for ((from, to), code, said) in cases {
        assert_eq!(SHARED.matches(from).count(), 1, "`{from}`");
        let report = check(&SHARED.replace(from, to)).unwrap_err();
        let found = report.problems.iter().find(|p| p.code == code && p.to_string().contains(said));
        assert!(found.is_some(), "no `{code}` with `{said}` in\n{report}");
    }
    // The same topic by another column: its views are read by that column, and by nobody who was brought elsewhere.
    let by_shop = SHARED.to_owned()
        + r#"
[source.sales]
connector = "kafka"
topic = "payments"
partition_by = "shop"
time = "at"
columns = { shop = "int64", card = "int64", at = "timestamp", amount = "float64" }
[features.shop]
source = "sales"
entity = "shop"
columns = { n = "count(*) over lifetime" }
"#;
    let project = sound(&by_shop);
    assert_eq!(["payments", "sales"].map(|source| project.definitions.shard_key(source)), [Some("card"), Some("shop")]);
    for (from, to, code, said) in [
        ("when = \"by_card.n > 3\"", "when = \"by_card.n + shop.n > 3\"", "spread", "`decision.limit` reads view \"shop\" by another key"),
        ("entity = \"shop\"", "entity = \"card\"", "spread", "the entities of view \"shop\" (card) lie in more than one shard"),
        ("partition_by = \"shop\"", "partition_by = \"amount\"", "wrong_type", "column `amount` of source \"sales\" is a float64"),
        ("partition_by = \"shop\"", "partition_by = \"shops\"", "unknown_column", "did you mean `shop`?"),
        ("partition_by = \"shop\"\n", "", "duplicate", "read the same topic"),
    ] {
        assert_eq!(by_shop.matches(from).count(), 1, "`{from}`");
        let report = check(&by_shop.replace(from, to)).unwrap_err();
        let found = report.problems.iter().find(|p| p.code == code && p.to_string().contains(said));
        assert!(found.is_some(), "no `{code}` with `{said}` in\n{report}");
    }
}

const REGISTRY: &str = "brokers = [\"a.example:9092\", \"b.example:9092, c.example:9093\"]\n";

/// With these lines of the source that reads a topic, and these of [kafka].
fn with_schema(source: &str, kafka: &str) -> String {
    let topic = "topic = \"transactions\"\n";
    on_kafka(&[(topic, &format!("{topic}{source}\n")), (REGISTRY, &format!("{REGISTRY}{kafka}\n"))])
}

#[test]
fn forms_of_records_are_read_and_change_no_meaning() {
    let registry = "schema_registry = { url = \"https://${HOST}:8081\", username = \"kilter\", password = \"${SECRET}\", ca = \"ca.pem\" }";
    let plain = sound(LENDER).plan.hash;
    for (source, kafka, format) in [
        ("", "", None),
        ("format = \"json\"", "", Some(TopicFormat::Json)),
        ("format = \"avro\"", registry, Some(TopicFormat::Avro)),
        ("format = \"protobuf\"", registry, Some(TopicFormat::Protobuf)),
        ("format = \"json_schema\"", registry, Some(TopicFormat::JsonSchema)),
        ("format = \"avro\"\nschema = \"a.avsc\"", "", Some(TopicFormat::Avro)),
        ("format = \"protobuf\"\nschema = \"a.proto\"\nmessage = \"shop.A\"", "", Some(TopicFormat::Protobuf)),
    ] {
        let project = sound(&with_schema(source, kafka));
        assert_eq!(project.plan.hash, plain, "{source}");
        assert_eq!(project.definitions.source.get("transactions").unwrap().format.and_then(SourceFormat::topic), format, "{source}");
    }
    let project = sound(&with_schema("format = \"avro\"", registry));
    let registry = project.definitions.kafka.as_ref().unwrap().schema_registry.as_ref().unwrap();
    let filled = registry.filled(|name| Some(name.to_lowercase())).unwrap();
    assert_eq!((filled.url.as_str(), filled.password.as_deref()), ("https://host:8081", Some("secret")));
    let missing = registry.filled(|name| (name == "HOST").then(|| "host".into())).unwrap_err();
    assert_eq!(missing, "`kafka.schema_registry.password` asks for the environment variable SECRET, which is not set");
}

#[test]
fn what_is_wrong_with_forms_of_records_is_said() {
    let registry = "schema_registry = { url = \"http://127.0.0.1:8081\" }";
    let cases = [
        ("format = \"parquet\"", "", "unknown_word", "valid here: json, avro, protobuf, json_schema"),
        ("format = \"avro\"", "", "missing", "or name a file as `schema`"),
        ("format = \"json_schema\"", "", "missing", "add `schema_registry = "),
        ("schema = \"a.avsc\"", registry, "misplaced", "`schema` is for the formats"),
        ("format = \"json_schema\"\nschema = \"a.json\"", registry, "misplaced", "`schema` is for the formats"),
        ("format = \"protobuf\"\nschema = \"a.proto\"", "", "missing", "the message of the `.proto` file"),
        ("format = \"protobuf\"\nmessage = \"shop.A\"", registry, "misplaced", "framed records say themselves"),
        ("", "schema_registry = { url = \"127.0.0.1:8081\" }", "bad_address", "one address such as"),
        ("", "schema_registry = { url = \"http://who:pass@127.0.0.1:8081\" }", "bad_address", "under `username` and `password`"),
        ("", "schema_registry = { url = \"http://a:1\", username = \"u\" }", "missing", "`username` goes together with `password`"),
        ("", "schema_registry = \"http://a:1\"", "wrong_type", "must be a table"),
        ("", "schema_registry = { url = \"http://a:1\", user = \"u\" }", "unknown_key", "username"),
    ];
    for (source, kafka, code, said) in cases {
        let report = check(&with_schema(source, kafka)).unwrap_err();
        let found = report.problems.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("no `{code}` in\n{report}"));
        assert!(found.to_string().contains(said), "`{said}` is not in\n{found}");
    }
    let report = check(&LENDER.replace("[source.transactions]\n", "[source.transactions]\nschema = \"a.avsc\"\n")).unwrap_err();
    assert!(report.to_string().contains("`schema` is for the connector \"kafka\""), "{report}");
}

#[test]
fn a_lake_is_read_and_changes_no_meaning() {
    let lake =
        "[lake]\nurl = \"s3://history/lender\"\nformat = \"delta\"\nproperties = { aws_region = \"${REGION}\" }\nretention = \"730d\"\n";
    let log = "[log]\nretention = \"30d\"\n";
    let project = sound(&format!("{LENDER}{lake}{log}"));
    assert_eq!(project.plan.hash, sound(LENDER).plan.hash);
    assert_eq!(project.settings.log.retention, Some(Span(30 * Span::DAY.0)));
    let said = project.definitions.lake.as_ref().unwrap();
    assert_eq!((said.every, said.records, said.compact.0), (Span::HOUR, 500_000, 128 << 20));
    let missing = kilter_runtime::project::filled("lake", &said.properties, |_| None).unwrap_err();
    assert!(missing.contains("lake.properties.aws_region"), "{missing}");
    let cases = [
        (format!("{LENDER}{log}"), "missing", "add [lake] with a `url`"),
        (format!("{LENDER}{}", lake.replace("s3:", "ftp:")), "bad_address", "s3://bucket/prefix"),
        (format!("{LENDER}{}", lake.replace("url", "# url")), "missing", "where it lies"),
        (format!("{LENDER}{}", lake.replace("delta", "iceberg")), "unknown_word", "parquet, delta"),
    ];
    for (text, code, hint) in cases {
        let report = check(&text).unwrap_err();
        let found = report.problems.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("no `{code}` in\n{report}"));
        assert!(found.to_string().contains(hint), "`{hint}` is not in\n{found}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever is in the file: an answer, and never a panic.
    #[test]
    fn mangled_definitions_are_refused_politely(cut in 0usize..3000, length in 0usize..40, junk in "[\\[\\]{}=\"'.,a-z0-9 \\\\\nü]{0,6}") {
        let floor = |i: usize| LENDER.char_indices().map(|(i, _)| i).take_while(|at| *at <= i).last().unwrap_or(0);
        let (start, end) = (floor(cut), floor(cut + length));
        let text = format!("{}{junk}{}", &LENDER[..start], &LENDER[end..]);
        if let Err(report) = check(&text) {
            proptest::prop_assert!(report.errors() > 0);
            for problem in &report.problems {
                proptest::prop_assert!(problem.hint.as_ref().is_some_and(|h| !h.is_empty()), "no hint: {}", problem);
                proptest::prop_assert!(problem.line <= text.lines().count() + 1, "{}", problem);
            }
        }
    }
}
