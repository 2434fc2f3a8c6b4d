//! XGBoost's model format, as JSON and as UBJSON, versions 1.0 to 3.x: trees (`gbtree`) of one output each, for a number or for classes.
//!
//! A split sends `value < threshold` left, both of 32 bits; a category of its list goes right. Leaves are added in tree order in 32 bits, to the
//! margin of `base_score`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Imported;
use super::ensemble::{Arithmetic, Ensemble, Inputs, Origin, Output, Width};
use super::tree::{Missing, Part, Rule, Split, Tree};
use super::ubjson;
use crate::{ClassLink, LearnError};

pub(crate) const KIND: &str = "xgboost";

/// XGBoost's categories lie below this.
const CATEGORIES: u64 = 1 << 24;

/// A file says how many classes there are and nothing more; it must not ask for memory without end.
const MOST_CLASSES: u64 = 10_000;

const CUT: &str = "the file was edited or damaged: save the model again with booster.save_model(\"model.json\")";

fn fault(at: impl Into<String>, what: impl Into<String>, hint: &'static str) -> LearnError {
    LearnError::Foreign { format: "XGBoost", at: at.into(), what: what.into(), hint }
}

pub fn read_json(bytes: &[u8]) -> Result<Imported, LearnError> {
    let document = serde_json::from_slice(&with_nan(bytes))
        .map_err(|error| fault(format!("line {}, column {}", error.line(), error.column()), format!("no JSON: {error}"), CUT))?;
    model(&document)
}

/// What stands for NaN in a document: as long as the word, so that places in the file stay what they are.
const NAN: &str = "N";

/// Old versions write a bare `NaN`, which JSON has no word for, where a split on categories has no threshold.
fn with_nan(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (mut in_text, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'N' if !in_text && bytes[at..].starts_with(b"NaN") => {
                bytes[at..at + 3].copy_from_slice(b"\"N\"");
                at += 2;
            }
            _ => {}
        }
        at += 1;
    }
    bytes
}

pub fn read_ubj(bytes: &[u8]) -> Result<Imported, LearnError> {
    let document = ubjson::parse(bytes)
        .map_err(|(at, what)| fault(format!("byte {at}"), what, "UBJSON is expected, as booster.save_model(\"model.ubj\") writes it"))?;
    model(&document)
}

/// A place in the document, with the way to it for messages.
#[derive(Clone)]
struct Place<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Place<'a> {
    fn fault(&self, what: impl Into<String>) -> LearnError {
        fault(self.path.clone(), what, CUT)
    }

    fn maybe(&self, name: &str) -> Option<Place<'a>> {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        self.value.get(name).filter(|value| !value.is_null()).map(|value| Place { value, path })
    }

    fn get(&self, name: &str) -> Result<Place<'a>, LearnError> {
        self.maybe(name).ok_or_else(|| self.fault(format!("`{name}` is missing")))
    }

    fn text(&self) -> Result<&'a str, LearnError> {
        self.value.as_str().ok_or_else(|| self.fault("a text is expected"))
    }

    fn list(&self) -> Result<&'a [Value], LearnError> {
        self.value.as_array().map(Vec::as_slice).ok_or_else(|| self.fault("a list is expected"))
    }

    /// A whole number, which most versions write as a text.
    fn count(&self) -> Result<u64, LearnError> {
        let number = self.value.as_u64().or_else(|| self.value.as_str()?.parse().ok());
        number.ok_or_else(|| self.fault("a whole number is expected"))
    }

    fn floats(&self) -> Result<Vec<f64>, LearnError> {
        // A threshold of 64 bits would be another one: the format's numbers are of 32.
        let single = |(at, value): (usize, &Value)| {
            if value.is_null() || value.as_str() == Some(NAN) {
                return Ok(f64::NAN);
            }
            let number = value.as_f64().ok_or_else(|| self.fault(format!("item {at} is no number")))?;
            Ok(f64::from(number as f32))
        };
        self.list()?.iter().enumerate().map(single).collect()
    }

    fn wholes(&self) -> Result<Vec<i64>, LearnError> {
        // Old versions write flags as true and false.
        let whole = |(at, value): (usize, &Value)| {
            value.as_i64().or_else(|| value.as_bool().map(i64::from)).ok_or_else(|| self.fault(format!("item {at} is no whole number")))
        };
        self.list()?.iter().enumerate().map(whole).collect()
    }

    fn sized<T>(&self, items: Vec<T>, count: usize) -> Result<Vec<T>, LearnError> {
        if items.len() == count { Ok(items) } else { Err(self.fault(format!("{} items for {count} nodes", items.len()))) }
    }
}

fn model(document: &Value) -> Result<Imported, LearnError> {
    let root = Place { value: document, path: String::new() };
    let learner = root.get("learner")?;
    let version = root.maybe("version").map(|version| version.wholes()).transpose()?.unwrap_or_default();
    let version = version.iter().map(i64::to_string).collect::<Vec<_>>().join(".");

    let booster = learner.get("gradient_booster")?;
    match booster.get("name")?.text()? {
        "gbtree" => {}
        name => {
            let hint = "train with booster=\"gbtree\"";
            return Err(fault(format!("{}.name", booster.path), format!("booster `{name}` cannot be imported"), hint));
        }
    }
    let params = learner.get("learner_model_param")?;
    if let Some(count) = params.maybe("num_target")
        && count.count()? > 1
    {
        let hint = "models with one output, or one for each of several classes, can be imported";
        return Err(fault(count.path.clone(), format!("a model of {} outputs", count.count()?), hint));
    }
    let objective = learner.get("objective")?.get("name")?;
    let (output, link) = objective_of(&objective)?;
    // A model of one output says 0 classes, or 1.
    let classes = params.maybe("num_class").map_or(Ok(1), |count| count.count())?.max(1);
    let class_link = ["multi:softprob", "multi:softmax"].contains(&objective.text()?).then_some(ClassLink::Softmax);
    if classes > MOST_CLASSES || (classes > 1) != class_link.is_some() {
        return Err(objective.fault(format!("the objective `{}` with {classes} classes", objective.text()?)));
    }
    let classes = classes as usize;
    let starts = starts(&params.get("base_score")?, classes, &link)?;
    let inputs = names(&learner, params.get("num_feature")?.count()?)?;

    let body = booster.get("model")?;
    let mut notes = Vec::new();
    if body.maybe("cats").and_then(|cats| cats.maybe("enc")).is_some_and(|enc| enc.list().is_ok_and(|list| !list.is_empty())) {
        notes.push(
            "trained on a data frame with categories: inputs of that kind are the categories' codes, in the order of the training frame"
                .into(),
        );
    }
    if let Some(best) = learner.maybe("attributes").and_then(|attributes| attributes.maybe("best_iteration")) {
        let best = best.text()?;
        notes.push(format!(
            "stopped early, best iteration {best}: all trees of the file score; for the best ones only, save booster[:{best} + 1]"
        ));
    }
    let list = body.get("trees")?;
    let trees = list
        .list()?
        .iter()
        .enumerate()
        .map(|(at, value)| tree(&Place { value, path: format!("{}[{at}]", list.path) }, inputs.len()))
        .collect::<Result<Vec<_>, _>>()?;
    let origin = Origin { program: KIND.into(), version, objective: objective.text()?.into(), notes };
    let mut by_class: Vec<Vec<Tree>> = (0..classes).map(|_| Vec::new()).collect();
    if classes == 1 {
        by_class[0] = trees;
    } else {
        let info = body.get("tree_info")?;
        let class_of = info.wholes()?;
        if class_of.len() != trees.len() {
            return Err(info.fault(format!("{} items for {} trees", class_of.len(), trees.len())));
        }
        for (tree, class) in trees.into_iter().zip(class_of) {
            let own = usize::try_from(class).ok().and_then(|class| by_class.get_mut(class));
            own.ok_or_else(|| info.fault(format!("a tree of class {class}, of {classes}")))?.push(tree);
        }
    }
    let member = |(trees, start)| {
        let arithmetic = Arithmetic { inputs: Inputs::Single, sum: Width::Single, start, divisor: 1.0, offset: 0.0, output };
        Ensemble::new(KIND, inputs.clone(), origin.clone(), arithmetic, trees)
    };
    Ok(Imported { members: by_class.into_iter().zip(starts).map(member).collect(), link: class_link })
}

/// What turns `base_score` into the sum's start.
enum Link {
    None,
    Logit,
    Log,
}

impl Link {
    fn margin(&self, base: f32) -> f32 {
        match self {
            Link::None => base,
            Link::Logit => -logf(1.0 / base - 1.0),
            Link::Log => logf(base),
        }
    }
}

/// The logarithm in 32 bits: that of 64, rounded.
fn logf(x: f32) -> f32 {
    libm::log(f64::from(x)) as f32
}

fn objective_of(objective: &Place<'_>) -> Result<(Output, Link), LearnError> {
    Ok(match objective.text()? {
        "binary:logistic" | "reg:logistic" => (Output::LogOdds(1.0), Link::Logit),
        "binary:logitraw" => (Output::LogOdds(1.0), Link::None),
        "multi:softprob" | "multi:softmax" => (Output::Value, Link::None),
        "count:poisson" | "reg:gamma" | "reg:tweedie" => (Output::Logarithm, Link::Log),
        "reg:squarederror"
        | "reg:linear"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:quantileerror"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map" => (Output::Value, Link::None),
        name => {
            let hint = "these are read: binary:logistic, binary:logitraw, multi:*, reg:*, count:poisson, rank:*";
            return Err(fault(objective.path.clone(), format!("objective `{name}` is not supported"), hint));
        }
    })
}

/// What each class's sum starts from: a text with one number for all, since 3.1 with a list of one or of one a class.
fn starts(place: &Place<'_>, classes: usize, link: &Link) -> Result<Vec<f64>, LearnError> {
    let scores = match place.value.as_f64() {
        Some(number) => vec![number as f32],
        None => {
            let text = place.text()?.trim();
            let list = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let numbers = list.split(',').map(|word| word.trim().parse()).collect::<Result<Vec<f32>, _>>();
            numbers.map_err(|_| place.fault(format!("`{text}` is no number and no list of numbers")))?
        }
    };
    let starts: Vec<f64> = scores.iter().map(|&score| f64::from(link.margin(score))).collect();
    match starts.len() {
        _ if starts.iter().any(|start| !start.is_finite()) => Err(place.fault("its margin is not finite")),
        1 => Ok(vec![starts[0]; classes]),
        count if count == classes => Ok(starts),
        count => Err(place.fault(format!("{count} numbers for {classes} classes"))),
    }
}

fn names(learner: &Place<'_>, count: u64) -> Result<Vec<String>, LearnError> {
    if let Some(names) = learner.maybe("feature_names") {
        let list = names.list()?;
        if list.len() as u64 == count {
            let text =
                |(at, name): (usize, &Value)| name.as_str().map(str::to_string).ok_or_else(|| names.fault(format!("item {at} is no text")));
            return list.iter().enumerate().map(text).collect();
        }
        if !list.is_empty() {
            return Err(names.fault(format!("{} names for {count} features", list.len())));
        }
    }
    // A file without names says how many there are and nothing more; it must not ask for memory without end.
    match count {
        1..=1_000_000 => Ok((0..count).map(|at| format!("f{at}")).collect()),
        _ => Err(learner.fault(format!("{count} features; 1 to 1000000 are read"))),
    }
}

fn tree(place: &Place<'_>, columns: usize) -> Result<Tree, LearnError> {
    let left_place = place.get("left_children")?;
    let left = left_place.wholes()?;
    let nodes = left.len();
    if let Some(size) = place.get("tree_param")?.maybe("size_leaf_vector")
        && size.count()? > 1
    {
        return Err(fault(size.path.clone(), "leaves of several values", "train with multi_strategy=\"one_output_per_tree\""));
    }
    let wholes = |name: &str| place.get(name).and_then(|list| list.sized(list.wholes()?, nodes));
    let floats = |name: &str| place.get(name).and_then(|list| list.sized(list.floats()?, nodes));
    let (right, column, conditions) = (wholes("right_children")?, wholes("split_indices")?, floats("split_conditions")?);
    let (default_left, cover, gain) = (wholes("default_left")?, floats("sum_hessian")?, floats("loss_changes")?);
    let categorical = match place.maybe("split_type") {
        Some(types) => types.sized(types.wholes()?, nodes)?,
        None => vec![0; nodes],
    };
    let (categories, sets) = if categorical.contains(&1) { categories(place)? } else { Default::default() };

    let mut parts = Vec::with_capacity(nodes);
    for node in 0..nodes {
        if left[node] < 0 {
            parts.push(Part::Leaf { value: conditions[node], cover: cover[node] });
            continue;
        }
        let own = usize::try_from(column[node]).ok().filter(|&column| column < columns);
        let own = own.ok_or_else(|| place.fault(format!("node {node} splits on feature {}, of {columns}", column[node])))?;
        let child = |id: i64| usize::try_from(id).map_err(|_| place.fault(format!("node {node} has child {id}")));
        let (mut left, mut right) = (child(left[node])?, child(right[node])?);
        let mut missing_left = default_left[node] != 0;
        let rule = match categorical[node] {
            0 => Rule::Below(conditions[node]),
            1 => {
                let range = sets.get(&(node as i64)).ok_or_else(|| place.fault(format!("node {node} has no list of categories")))?;
                // Listed categories go right: the sides change places, for here they go left.
                (left, right) = (right, left);
                missing_left = !missing_left;
                Rule::OneOfFromZero { first: range.0, count: range.1 }
            }
            kind => return Err(place.fault(format!("node {node} has a split of the unknown type {kind}"))),
        };
        let missing = if missing_left { Missing::Left } else { Missing::Right };
        let split = Split { column: own as u32, rule, missing };
        parts.push(Part::Split { split, left, right, cover: cover[node], gain: gain[node] });
    }
    Tree::build(&parts, 0, categories).map_err(|what| place.fault(what))
}

/// The categories of all nodes one after the other, and where those of each node lie (first, count).
#[expect(clippy::type_complexity, reason = "a list and its parts")]
fn categories(place: &Place<'_>) -> Result<(Vec<u32>, BTreeMap<i64, (u32, u32)>), LearnError> {
    let list = place.get("categories")?;
    let values = list.wholes()?;
    let nodes = place.get("categories_nodes")?.wholes()?;
    let [segments, sizes] =
        ["categories_segments", "categories_sizes"].map(|name| place.get(name).and_then(|list| list.sized(list.wholes()?, nodes.len())));
    let (mut categories, mut sets) = (Vec::new(), BTreeMap::new());
    for ((&node, segment), size) in nodes.iter().zip(segments?).zip(sizes?) {
        let range =
            usize::try_from(segment).ok().zip(usize::try_from(size).ok()).and_then(|(first, count)| Some(first..first.checked_add(count)?));
        let own = range.and_then(|range| values.get(range));
        let own = own.ok_or_else(|| place.fault(format!("categories {segment} and {size} more, of {}", values.len())))?;
        let mut own: Vec<u32> = own
            .iter()
            .map(|&value| {
                u32::try_from(value)
                    .ok()
                    .filter(|&value| u64::from(value) < CATEGORIES)
                    .ok_or_else(|| list.fault(format!("{value} is no category")))
            })
            .collect::<Result<_, _>>()?;
        // Several nodes may name one segment: what is kept must not outgrow the file.
        if categories.len() + own.len() > 4 * values.len() + nodes.len() {
            return Err(place.fault("nodes whose lists of categories overlap"));
        }
        own.sort_unstable();
        own.dedup();
        sets.insert(node, (categories.len() as u32, own.len() as u32));
        categories.extend(own);
    }
    Ok((categories, sets))
}
