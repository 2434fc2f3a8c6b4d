//! A search for settings within a budget of fits: settings are drawn at random, and each fold of the cross-validation is a round after which the better
//! third goes on (successive halving, Jamieson and Talwalkar 2016, with folds for rungs).
//!
//! The settings one starts from run along to the end, and are left only for others with a lower mean loss over all folds. The budget is a number of
//! fits and no time, and draws follow from the seed: the same rows choose the same settings on every machine.

use std::collections::BTreeMap;

use kilter_stats::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::learners::Learner;
use crate::{LearnError, gbdt};

/// Settings by name, in the words of a learner's own struct.
pub type Settings = Map<String, Value>;

/// Of so many one goes on.
const KEPT: usize = 3;

const MOST_FITS: usize = 100_000;

/// Where one setting is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    OneOf(Vec<Value>),
    Between(Range),
}

/// Numbers from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub from: f64,
    pub to: f64,
    /// Draws are even in the logarithm: as many from 1 to 10 as from 10 to 100.
    #[serde(default)]
    pub log: bool,
    /// Whole numbers only.
    #[serde(default)]
    pub whole: bool,
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most models to fit, those of the settings one starts from among them.
    pub fits: usize,
    pub folds: usize,
}

/// What to look for, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub space: BTreeMap<String, Setting>,
    pub budget: Budget,
    pub seed: u64,
}

/// Settings that were tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Only those searched for; none of the settings one starts from.
    pub settings: Settings,
    /// By fold, as far as it came: the lower the better.
    pub losses: Vec<f64>,
    /// Why its last fit came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// All trials, the settings one starts from first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Searched {
    pub trials: Vec<Trial>,
    /// Position of the chosen one.
    pub best: usize,
    pub fits: usize,
}

impl Budget {
    /// How many settings can be drawn: in each fold the better third of those of the fold before is fitted, and those one starts from.
    pub fn candidates(&self) -> usize {
        let fits = |candidates: usize| self.rungs(candidates).into_iter().map(|left| left + 1).sum::<usize>();
        // More candidates are never fewer fits, and each is one at least.
        (0..=self.fits).rev().find(|&candidates| fits(candidates) <= self.fits).unwrap_or(0)
    }

    /// How many of so many are fitted in each fold.
    fn rungs(&self, candidates: usize) -> Vec<usize> {
        std::iter::successors(Some(candidates), |left| Some(left.div_ceil(KEPT))).take(self.folds).collect()
    }
}

impl Trial {
    /// Over the folds it was fitted in; without end where one failed.
    pub fn mean_loss(&self) -> f64 {
        if self.failed.is_some() || self.losses.is_empty() {
            return f64::INFINITY;
        }
        self.losses.iter().sum::<f64>() / self.losses.len() as f64
    }
}

impl Searched {
    pub fn best(&self) -> &Trial {
        &self.trials[self.best]
    }
}

/// Looks for the settings with the least loss; `loss` fits them and judges them on a fold, by its number. What it cannot fit is out of the race.
pub fn search(what: &Search, mut loss: impl FnMut(&Settings, usize) -> Result<f64, LearnError>) -> Result<Searched, LearnError> {
    let Budget { fits, folds } = what.budget;
    let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
    if folds == 0 {
        return bad("folds", "0".into(), "at least 1");
    }
    if fits > MOST_FITS {
        return bad("fits", fits.to_string(), "at most 100000");
    }
    let candidates = what.budget.candidates();
    if candidates == 0 {
        return bad("fits", fits.to_string(), "enough to fit one candidate and the settings one starts from in every fold");
    }
    for (name, setting) in &what.space {
        setting.check().map_err(|must| LearnError::BadParameter { name: "space", found: format!("{name}: {setting:?}"), must })?;
    }
    let seeds = Rng::seeded(what.seed);
    let drawn = (0..candidates as u64).map(|candidate| {
        let mut rng = seeds.fork(candidate);
        what.space.iter().map(|(name, setting)| (name.clone(), setting.draw(&mut rng))).collect::<Settings>()
    });
    let trial = |settings: Settings| Trial { settings, losses: Vec::new(), failed: None };
    let mut trials: Vec<Trial> = std::iter::once(Settings::new()).chain(drawn).map(trial).collect();
    let mut left: Vec<usize> = (1..trials.len()).collect();
    let mut done = 0;
    for (fold, places) in what.budget.rungs(candidates).into_iter().enumerate() {
        // Of equal ones the first drawn.
        left.sort_by(|&a, &b| trials[a].mean_loss().total_cmp(&trials[b].mean_loss()).then(a.cmp(&b)));
        left.truncate(places);
        for &at in std::iter::once(&0).chain(&left) {
            let trial = &mut trials[at];
            if trial.failed.is_some() {
                continue;
            }
            done += 1;
            match loss(&trial.settings, fold) {
                Ok(loss) if loss.is_finite() => trial.losses.push(loss),
                Ok(loss) => trial.failed = Some(format!("its loss is {loss}")),
                // Nothing can be compared where the settings one starts from cannot be fitted.
                Err(error) if at == 0 => return Err(error),
                Err(error) => trial.failed = Some(error.to_string()),
            }
        }
    }
    // Those that came through all folds; the start wins a tie.
    let finished = |at: &usize| trials[*at].losses.len() == folds && trials[*at].failed.is_none();
    let best = std::iter::once(0).chain(left).filter(finished).min_by(|&a, &b| trials[a].mean_loss().total_cmp(&trials[b].mean_loss()));
    Ok(Searched { best: best.unwrap_or(0), trials, fits: done })
}

impl Setting {
    /// What it must be, where it is not.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Setting::OneOf(values) if values.is_empty() => Err("a list with a value in it"),
            Setting::Between(range) if !(range.from.is_finite() && range.to.is_finite() && range.from <= range.to) => {
                Err("from a number to one that is not below it")
            }
            Setting::Between(range) if range.log && range.from <= 0.0 => Err("above 0 where draws are even in the logarithm"),
            Setting::Between(range) if range.whole && libm::floor(range.to) < libm::ceil(range.from) => {
                Err("a range with a whole number in it")
            }
            _ => Ok(()),
        }
    }

    /// The values at its ends, or all of a list: if a learner takes them, it takes what lies between.
    pub fn ends(&self) -> Vec<Value> {
        match self {
            Setting::OneOf(values) => values.clone(),
            Setting::Between(range) => [range.from, range.to].map(|end| range.value(end)).to_vec(),
        }
    }

    fn draw(&self, rng: &mut Rng) -> Value {
        match self {
            Setting::OneOf(values) => values[rng.below(values.len() as u64) as usize].clone(),
            Setting::Between(range) => {
                let Range { from, to, log, .. } = *range;
                let share = rng.uniform();
                range.value(match log {
                    true => libm::exp(libm::log(from) + share * (libm::log(to) - libm::log(from))),
                    false => from + share * (to - from),
                })
            }
        }
    }
}

impl Range {
    /// As it goes into the settings: four digits are enough to choose by, and to read.
    fn value(&self, drawn: f64) -> Value {
        if self.whole {
            let whole = libm::round(drawn).clamp(libm::ceil(self.from), libm::floor(self.to));
            return if whole >= 0.0 { json!(whole as u64) } else { json!(whole as i64) };
        }
        let short: f64 = format!("{drawn:.3e}").parse().unwrap_or(drawn);
        json!(short.clamp(self.from, self.to))
    }
}

/// Where the settings of a learner are usually looked for.
pub fn default_space(learner: &Learner) -> BTreeMap<String, Setting> {
    let number = |from, to| Setting::Between(Range { from, to, log: false, whole: false });
    let log = |from, to| Setting::Between(Range { from, to, log: true, whole: false });
    let whole = |from, to| Setting::Between(Range { from, to, log: true, whole: true });
    let space: Vec<(&str, Setting)> = match learner {
        Learner::Gbdt(gbdt::Gbdt { .. }) => vec![
            ("learning_rate", log(0.01, 0.2)),
            ("leaves", whole(6.0, 96.0)),
            ("min_leaf_rows", whole(5.0, 200.0)),
            ("lambda_l2", log(0.1, 30.0)),
            ("column_fraction", number(0.3, 1.0)),
            ("bagging_fraction", number(0.5, 1.0)),
        ],
        Learner::Forest(_) => vec![("min_leaf_rows", whole(1.0, 100.0)), ("draw_fraction", number(0.3, 1.0))],
        Learner::Explainable(_) => {
            vec![
                ("learning_rate", log(0.01, 0.2)),
                ("min_leaf_rows", whole(2.0, 100.0)),
                ("pairs", Setting::OneOf(vec![json!(0), json!(10), json!(20)])),
            ]
        }
        Learner::Logistic(_) | Learner::Linear(_) => {
            vec![("l1", Setting::OneOf([0.0, 0.1, 1.0, 10.0, 100.0].map(|l1| json!(l1)).to_vec())), ("l2", log(1e-3, 1e3))]
        }
        Learner::Scorecard(_) => vec![("max_bins", whole(4.0, 15.0)), ("min_share", log(0.01, 0.1)), ("l2", log(1e-2, 1e2))],
        Learner::Isolation(_) => vec![("sample", whole(64.0, 2048.0))],
    };
    space.into_iter().map(|(name, setting)| (name.to_owned(), setting)).collect()
}

impl Learner {
    /// The same learner with some of its settings changed.
    pub fn with(&self, settings: &Settings) -> Result<Learner, serde_json::Error> {
        let mut own = serde_json::to_value(self)?;
        if let Value::Object(own) = &mut own {
            own.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        serde_json::from_value(own)
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
