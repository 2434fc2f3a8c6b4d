//! `[model.NAME.search]`: a training looks for settings of the learner before it fits the model.

use std::collections::BTreeMap;

use kilter_core::Problem;
use kilter_learn::selection::{Budget, Search, Setting, default_space};
use kilter_learn::{Learner, Task};
use kilter_pipeline::{SearchPlan, search_metrics};
use schemars::JsonSchema;
use serde::Serialize;

use super::definitions::ModelDef;
use super::document::{At, Document};
use super::params;
use super::reader::Reader;

/// A search for settings of the learner, part of every training of the model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SearchDef {
    /// Most models to fit on the way.
    #[schemars(range(min = 2, max = 10000))]
    pub fits: usize,
    /// Stretches of the training rows that settings are judged on, each by models of what lies before it.
    #[schemars(range(min = 1, max = 20), default = "folds")]
    pub folds: usize,
    /// The figure to choose by; left out: the one that the learner lowers.
    pub metric: Option<String>,
    /// Where each setting is looked for: a list of values, or `{ from = 0.01, to = 0.2, log = true }`; left out: what is usual for the learner.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub space: Option<BTreeMap<String, serde_json::Value>>,
}

fn folds() -> usize {
    3
}

/// What stands under `search` in a model's table.
pub(super) fn read(model: &mut Reader<'_>) -> Option<SearchDef> {
    let mut t = model.table("search", "the search")?;
    t.require("fits", "how many models to fit at most: `fits = 40`");
    let fits = t.integer("fits", 2, 10_000).map(|n| n as usize);
    let folds = t.integer("folds", 1, 20).map_or_else(folds, |n| n as usize);
    let metric = t.text("metric");
    let space = t.settings("space");
    t.finish();
    Some(SearchDef { fits: fits?, folds, metric, space })
}

/// The search as trainings make it; none where something is wrong with it, which is said.
pub(super) fn plan(document: &Document<'_>, path: &str, def: &ModelDef, learner: &Learner) -> Option<SearchPlan> {
    let own = def.search.as_ref()?;
    let path = format!("{path}.search");
    let task = learner.task();
    if task == Task::Anomalies && def.label.is_none() {
        let problem = Problem::new("misplaced", "without a label nothing says which settings are better");
        document.error(At::Key(&path), problem.hint("give the model a `label`, or leave `search` out"));
        return None;
    }
    let metrics = search_metrics(task);
    let metric = own.metric.as_deref().unwrap_or(metrics[0]);
    if !metrics.contains(&metric) {
        let problem = Problem::unknown("unknown_word", "figure to choose by", metric, metrics.iter().copied());
        document.error(At::Value(&format!("{path}.metric")), problem);
        return None;
    }
    let budget = Budget { fits: own.fits, folds: own.folds };
    if budget.candidates() == 0 {
        let problem = Problem::new("out_of_range", format!("{} fits are too few for {} folds", own.fits, own.folds));
        let hint = format!("every fold fits the settings as they are and one candidate at least: `fits = {}`", 10 * own.folds);
        document.error(At::Value(&format!("{path}.fits")), problem.hint(hint));
        return None;
    }
    let space = match &own.space {
        None => default_space(learner),
        Some(written) => {
            let found = written.iter().map(|(name, value)| Some((name.clone(), setting(document, &path, def, name, value)?)));
            // All that is wrong is told.
            found.collect::<Vec<_>>().into_iter().collect::<Option<BTreeMap<_, _>>>()?
        }
    };
    // What is declared by hand is not looked for, unless it is in the space.
    let declared = |name: &String| own.space.is_none() && def.params.contains_key(name);
    let space: BTreeMap<String, Setting> = space.into_iter().filter(|(name, _)| !declared(name)).collect();
    if space.is_empty() {
        let problem = Problem::new("empty", "there is no setting to look for: `params` gives all of them");
        document.error(At::Key(&path), problem.hint("name what to look for: `space = { leaves = [15, 31, 63] }`"));
        return None;
    }
    Some(SearchPlan { search: Search { space, budget, seed: def.seed }, metric: metric.to_owned() })
}

fn setting(document: &Document<'_>, path: &str, def: &ModelDef, name: &str, value: &serde_json::Value) -> Option<Setting> {
    let place = format!("{path}.space.{name}");
    let settings = params::settings(def.learner);
    let Some((_, default)) = settings.iter().find(|(known, _)| known == name) else {
        let problem = Problem::unknown("unknown_param", "setting", name, settings.iter().map(|(known, _)| known.as_str()));
        document.error(At::Key(&place), problem);
        return None;
    };
    let problem = match serde_json::from_value::<Setting>(value.clone()) {
        Err(_) => {
            let problem = Problem::new("wrong_type", format!("`{name}` must be a list of values, or a range"));
            Some(problem.hint(format!("write `{name} = [1, 2, 4]`, or `{name} = {{ from = 1, to = 100, log = true }}`")))
        }
        Ok(mut setting) => {
            if let Setting::Between(range) = &mut setting {
                range.whole |= default.is_u64() || default.is_i64();
            }
            let taken = |end: serde_json::Value| {
                let mut params = def.params.clone();
                params.insert(name.to_owned(), end);
                params::learner(def.learner, &params, def.seed, Vec::new()).err()?.into_iter().next().map(|(_, problem)| problem)
            };
            match setting.check() {
                Err(must) => {
                    let problem = Problem::new("out_of_range", format!("where `{name}` is looked for must be {must}"));
                    Some(problem.hint(format!("such as `{name} = {{ from = 0.01, to = 0.2, log = true }}`")))
                }
                Ok(()) => match setting.ends().into_iter().find_map(taken) {
                    Some(problem) => Some(problem),
                    None => return Some(setting),
                },
            }
        }
    };
    problem.into_iter().for_each(|problem| document.error(At::Value(&place), problem));
    None
}
