//! Cases told apart by a value: who gets the favourable outcome how often, and how it turned out in each group.
//!
//! The adverse impact ratio and the four-fifths rule are those of the Uniform Guidelines on Employee Selection Procedures (29 CFR 1607.4 D; groups under two percent are not judged, 1607.15 A);
//! equal opportunity is that of Hardt, Price and Srebro (2016).

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use kilter_core::{CompactString, DataType, Event, Schema, Value};
use kilter_learn::metrics::Share;
use serde::Serialize;

use super::slice::{CONFIDENCE, Cases, Figure, Slice};
use super::{NoReport, SegmentOf};

/// Different texts that are told apart while reading.
pub(super) const TEXTS: usize = 10_000;
/// Groups of one value each.
const GROUPS: usize = 20;
/// Groups of numbers that have more values than that.
const RANGES: usize = 5;
/// Fewer cases than this, or a smaller part of all than one in so many, are not judged by.
const FEWEST: u64 = 30;
const SMALLEST_PART: u64 = 50;
const MISSING: u32 = u32::MAX;

/// The cases by group.
#[derive(Clone, Debug, Serialize)]
pub struct Segment {
    pub name: String,
    /// `column` or `input`.
    pub kind: &'static str,
    /// `value` or `range`.
    pub cut: &'static str,
    /// The group that others are held against.
    pub reference: Option<String>,
    /// Of the groups that are not few, the one with the largest share of favourable outcomes.
    pub highest: Option<String>,
    /// The largest share of favourable outcomes less the smallest, and the same of those that deserved one; of groups that are not few.
    pub demographic_parity_difference: Option<f64>,
    pub equal_opportunity_difference: Option<f64>,
    pub groups: Vec<Group>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub group: String,
    pub kind: GroupKind,
    /// The lowest and the highest value of a range.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// How many values were put together.
    pub values: Option<usize>,
    pub few: bool,
    /// Of cases that deserved a favourable outcome.
    pub few_labelled: bool,
    pub favourable: Favourable,
    /// By the reference's share.
    pub impact_ratio: Option<Figure>,
    pub below_four_fifths: Option<bool>,
    /// The share of favourable outcomes among labelled cases that deserved one ...
    pub true_positive_rate: Option<Figure>,
    /// ... and among those that did not.
    pub false_positive_rate: Option<Figure>,
    /// The true positive rate less the reference's.
    pub equal_opportunity: Option<Figure>,
    #[serde(flatten)]
    pub slice: Slice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    Value,
    Range,
    Other,
    Missing,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Favourable {
    pub decisions: u64,
    pub share: Option<Figure>,
}

/// What each case has.
pub(super) enum Values {
    /// By number of the text.
    Texts {
        of_case: Vec<u32>,
        known: HashMap<CompactString, u32, FixedState>,
        source: usize,
    },
    /// NaN: missing. Of a column, or of an input.
    Numbers {
        of_case: Vec<f64>,
        source: Option<usize>,
    },
    TooMany,
}

impl Values {
    /// None of `schema`'s columns: an input.
    pub fn new(of: &SegmentOf, schema: &Schema) -> Values {
        match of {
            SegmentOf::Column(column) => match schema.fields[*column].data_type {
                DataType::String | DataType::Bool => Values::Texts { of_case: Vec::new(), known: HashMap::default(), source: *column },
                _ => Values::Numbers { of_case: Vec::new(), source: Some(*column) },
            },
            SegmentOf::Input(_) => Values::Numbers { of_case: Vec::new(), source: None },
        }
    }

    pub fn push(&mut self, event: &Event, input: Option<f64>) {
        match self {
            Values::Texts { of_case, known, source } => {
                let text = match event.row.get(*source) {
                    Some(Value::Text(text)) => text.clone(),
                    Some(Value::Bool(value)) => CompactString::const_new(if *value { "true" } else { "false" }),
                    _ => return of_case.push(MISSING),
                };
                let next = known.len();
                if next == TEXTS && !known.contains_key(&text) {
                    *self = Values::TooMany;
                    return;
                }
                of_case.push(*known.entry(text).or_insert(next as u32));
            }
            Values::Numbers { of_case, source } => {
                let value = source.map_or(input, |column| event.row.get(column).and_then(Value::as_f64));
                of_case.push(value.filter(|value| value.is_finite()).unwrap_or(f64::NAN));
            }
            Values::TooMany => {}
        }
    }

    /// Groups in the order told, and the one of each case.
    fn groups(self) -> Result<(&'static str, Vec<Named>, Vec<u32>), NoReport> {
        match self {
            Values::TooMany => Err(NoReport::TooManyValues),
            Values::Texts { of_case, known, .. } => {
                let mut texts = vec![String::new(); known.len()];
                known.into_iter().for_each(|(text, number)| texts[number as usize] = text.into());
                Ok(by_value(&texts, of_case))
            }
            Values::Numbers { of_case, .. } => {
                let mut values: Vec<f64> = of_case.iter().copied().filter(|value| !value.is_nan()).collect();
                values.sort_unstable_by(f64::total_cmp);
                // 0 is one value.
                let distinct: Vec<f64> = values.chunk_by(|a, b| a == b).map(|equal| equal[0]).collect();
                if distinct.len() > GROUPS {
                    return Ok(by_range(&values, &of_case));
                }
                let place = |value: &f64| if value.is_nan() { MISSING } else { distinct.partition_point(|d| d < value) as u32 };
                let texts: Vec<String> = distinct.iter().map(|value| (value + 0.0).to_string()).collect();
                Ok(by_value(&texts, of_case.iter().map(place).collect()))
            }
        }
    }
}

/// A group before its cases are looked at.
struct Named {
    name: String,
    kind: GroupKind,
    bounds: Option<(f64, f64)>,
    values: Option<usize>,
}

impl Named {
    fn of(name: &str, kind: GroupKind) -> Named {
        Named { name: name.to_string(), kind, bounds: None, values: None }
    }

    fn missing() -> Named {
        Named::of("(missing)", GroupKind::Missing)
    }
}

/// The most frequent texts first, the rest together.
fn by_value(texts: &[String], mut of_case: Vec<u32>) -> (&'static str, Vec<Named>, Vec<u32>) {
    let mut counts = vec![0_u64; texts.len()];
    of_case.iter().filter(|text| **text != MISSING).for_each(|text| counts[*text as usize] += 1);
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_unstable_by(|a, b| counts[*b].cmp(&counts[*a]).then_with(|| texts[*a].cmp(&texts[*b])));
    let mut groups: Vec<Named> = order.iter().take(GROUPS).map(|text| Named::of(&texts[*text], GroupKind::Value)).collect();
    if order.len() > GROUPS {
        groups.push(Named { values: Some(order.len() - GROUPS), ..Named::of("(other)", GroupKind::Other) });
    }
    let mut place = vec![0; texts.len()];
    order.iter().enumerate().for_each(|(at, text)| place[*text] = at.min(GROUPS) as u32);
    let missing = groups.len() as u32;
    of_case.iter_mut().for_each(|text| *text = if *text == MISSING { missing } else { place[*text as usize] });
    if of_case.contains(&missing) {
        groups.push(Named::missing());
    }
    ("value", groups, of_case)
}

/// Ranges of about as many cases each; equal values share one. `sorted` are the values that there are.
fn by_range(sorted: &[f64], of_case: &[f64]) -> (&'static str, Vec<Named>, Vec<u32>) {
    let mut groups = Vec::new();
    let mut highest = Vec::new();
    let mut start = 0;
    for range in 1..=RANGES {
        let mut end = (range * sorted.len() / RANGES).max(start);
        while end > start && end < sorted.len() && sorted[end] == sorted[end - 1] {
            end += 1;
        }
        if end > start {
            // 0 is one value.
            let (low, high) = (sorted[start] + 0.0, sorted[end - 1] + 0.0);
            let name = if low == high { low.to_string() } else { format!("{low} to {high}") };
            groups.push(Named { bounds: Some((low, high)), ..Named::of(&name, GroupKind::Range) });
            highest.push(high);
        }
        start = end;
    }
    let missing = groups.len() as u32;
    let place = |value: &f64| if value.is_nan() { missing } else { highest.partition_point(|high| high < value) as u32 };
    let of_case: Vec<u32> = of_case.iter().map(place).collect();
    if of_case.contains(&missing) {
        groups.push(Named::missing());
    }
    ("range", groups, of_case)
}

/// What shares are counted by.
pub(super) struct Shares<'a> {
    pub cases: &'a Cases,
    /// Positions of outcomes.
    pub favourable: &'a [u16],
    /// None: labels say nothing of who deserved what.
    pub good_label: Option<bool>,
}

/// The counts of a group that are compared.
#[derive(Clone, Copy, Default)]
struct Counts {
    favourable: Share,
    deserved: Share,
    undeserved: Share,
}

impl Shares<'_> {
    pub fn segment(
        &self,
        name: String,
        kind: &'static str,
        values: Values,
        by_time: &[u32],
        reference: Option<&str>,
        wants: &dyn Fn() -> bool,
    ) -> Result<Segment, NoReport> {
        let (cut, named, of_case) = values.groups()?;
        let mut rows = vec![Vec::new(); named.len()];
        by_time.iter().for_each(|row| rows[of_case[*row as usize] as usize].push(*row));
        let counts: Vec<Counts> = rows.iter().map(|rows| self.counts(rows)).collect();
        let is_plain = |at: usize| matches!(named[at].kind, GroupKind::Value | GroupKind::Range);
        let reference =
            match reference {
                // A value may have the name of what is put together; it comes first.
                Some(wanted) => Some(named.iter().position(|group| group.name == wanted).ok_or_else(|| {
                    NoReport::UnknownReference(wanted.to_string(), named.iter().map(|group| group.name.clone()).collect())
                })?),
                // Of equals the first.
                None => (0..named.len()).rev().max_by_key(|at| (is_plain(*at), rows[*at].len())),
            };
        let is_few = |at: usize| {
            let own = rows[at].len() as u64;
            own < FEWEST || own * SMALLEST_PART < by_time.len() as u64
        };
        let is_few_labelled = |at: usize| counts[at].deserved.rows < FEWEST;
        let judged: Vec<usize> = (0..named.len()).filter(|at| is_plain(*at) && !is_few(*at)).collect();
        let share = |at: usize| counts[at].favourable.value();
        let highest = judged.iter().copied().rev().max_by(|a, b| share(*a).total_cmp(&share(*b)));
        let deserved = (0..named.len()).filter(|at| is_plain(*at) && !is_few_labelled(*at)).map(|at| counts[at].deserved.value());
        let (demographic_parity_difference, equal_opportunity_difference) = (spread(judged.iter().map(|at| share(*at))), spread(deserved));
        let names: Vec<String> = named.iter().map(|group| group.name.clone()).collect();
        let mut groups = Vec::new();
        for (at, group) in named.into_iter().enumerate() {
            if !wants() {
                return Err(NoReport::Unwanted);
            }
            let own = counts[at];
            let against = reference.map(|reference| counts[reference]).unwrap_or_default();
            let alone = |value: f64| Some(Figure { value, low: f64::NAN, high: f64::NAN });
            let is_reference = reference == Some(at);
            let impact_ratio = match is_reference && own.favourable.hits > 0 {
                true => alone(1.0),
                false => Figure::of(own.favourable.over(against.favourable, CONFIDENCE)),
            };
            let rate = |share: Share| Figure::of_share(share.hits, share.rows);
            groups.push(Group {
                group: group.name,
                kind: group.kind,
                low: group.bounds.map(|(low, _)| low),
                high: group.bounds.map(|(_, high)| high),
                values: group.values,
                few: is_few(at),
                few_labelled: is_few_labelled(at),
                favourable: Favourable { decisions: own.favourable.hits, share: rate(own.favourable) },
                impact_ratio,
                below_four_fifths: impact_ratio.map(|_| !is_reference && is_below_four_fifths(own.favourable, against.favourable)),
                true_positive_rate: rate(own.deserved),
                false_positive_rate: rate(own.undeserved),
                equal_opportunity: match is_reference && own.deserved.rows > 0 {
                    true => alone(0.0),
                    false => Figure::of(own.deserved.less(against.deserved, CONFIDENCE)),
                },
                slice: self.cases.slice(&rows[at]),
            });
        }
        Ok(Segment {
            name,
            kind,
            cut,
            reference: reference.map(|at| names[at].clone()),
            highest: highest.map(|at| names[at].clone()),
            demographic_parity_difference,
            equal_opportunity_difference,
            groups,
        })
    }

    fn counts(&self, rows: &[u32]) -> Counts {
        let mut counts = Counts::default();
        for row in rows {
            let (outcome, label) = (self.cases.outcome_of[*row as usize], self.cases.labels[*row as usize]);
            let is_favourable = self.favourable.contains(&outcome);
            let add = |share: &mut Share| {
                share.rows += 1;
                share.hits += u64::from(is_favourable);
            };
            add(&mut counts.favourable);
            match self.good_label {
                Some(good) if !label.is_nan() => {
                    add(if (label == 1.0) == good { &mut counts.deserved } else { &mut counts.undeserved });
                }
                _ => {}
            }
        }
        counts
    }
}

/// Whether one share is less than four fifths of another; a ratio of floats is wrong where it is four fifths.
fn is_below_four_fifths(own: Share, against: Share) -> bool {
    let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
    5 * product(own.hits, against.rows) < 4 * product(against.hits, own.rows)
}

/// The largest less the smallest; none of fewer than two.
fn spread(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (low, high, count) = values.fold((f64::INFINITY, f64::NEG_INFINITY, 0), |(low, high, n), x| (low.min(x), high.max(x), n + 1));
    (count > 1).then_some(high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: impl IntoIterator<Item = f64>) -> (&'static str, Vec<Named>, Vec<u32>) {
        Values::Numbers { of_case: values.into_iter().collect(), source: None }.groups().unwrap()
    }

    fn names(groups: &[Named]) -> Vec<&str> {
        groups.iter().map(|group| group.name.as_str()).collect()
    }

    #[test]
    fn few_values_are_groups_of_their_own_and_the_most_frequent_comes_first() {
        let (cut, groups, of_case) = numbers([2.0, 1.0, f64::NAN, 2.0, -0.0, 0.0]);
        assert_eq!((cut, names(&groups)), ("value", vec!["0", "2", "1", "(missing)"]));
        assert_eq!(of_case, [1, 2, 3, 1, 0, 0]);
    }

    #[test]
    fn many_values_are_cut_into_ranges_and_equal_ones_stay_together() {
        let (cut, groups, of_case) = numbers((0..100).map(|n| if n < 50 { 0.0 } else { f64::from(n) }).chain([f64::NAN]));
        assert_eq!(cut, "range");
        // Half of them are 0, which fills the first two ranges and a part of the third.
        assert_eq!(names(&groups), ["0", "50 to 59", "60 to 79", "80 to 99", "(missing)"]);
        let count = |group: u32| of_case.iter().filter(|of| **of == group).count();
        assert_eq!([count(0), count(1), count(2), count(3), count(4)], [50, 10, 20, 20, 1]);
    }

    #[test]
    fn four_fifths_are_not_below_four_fifths() {
        let share = |hits, rows| Share { hits, rows };
        for (hits, rows) in [(8, 50), (16, 100), (24, 150)] {
            assert!(!is_below_four_fifths(share(hits, rows), share(6, 30)), "{hits} of {rows}");
            assert!(is_below_four_fifths(share(hits - 1, rows), share(6, 30)), "{hits} of {rows}, less one");
        }
        assert!(!is_below_four_fifths(share(1, 10), share(0, 10)));
    }

    #[test]
    fn what_is_seldom_is_put_together() {
        let texts: Vec<String> = (0..30).map(|n| format!("t{n:02}")).collect();
        // Text n comes up n + 1 times.
        let of_case: Vec<u32> = (0..30).flat_map(|n| std::iter::repeat_n(n, n as usize + 1)).chain([MISSING]).collect();
        let all = of_case.len();
        let (_, groups, of_case) = by_value(&texts, of_case);
        assert_eq!((groups.len(), groups[0].name.as_str(), groups[19].name.as_str()), (22, "t29", "t10"));
        assert_eq!((groups[20].kind, groups[20].values, groups[21].kind), (GroupKind::Other, Some(10), GroupKind::Missing));
        assert_eq!(of_case.iter().filter(|of| **of == 20).count(), (1..=10).sum::<usize>());
        assert_eq!((of_case.len(), of_case[all - 1]), (all, 21));
    }

    #[test]
    fn too_many_texts_are_no_groups() {
        let mut values = Values::Texts { of_case: Vec::new(), known: HashMap::default(), source: 0 };
        let event = |n: usize| Event {
            source: kilter_core::SourceId(0),
            offset: n as u64,
            time: kilter_core::EventTime(0),
            arrived: kilter_core::EventTime(0),
            id: None,
            operation: kilter_core::Operation::Upsert,
            row: vec![Value::text(&n.to_string())],
            extra: None,
            origin: None,
        };
        (0..TEXTS).chain(0..10).for_each(|n| values.push(&event(n), None));
        assert!(matches!(values, Values::Texts { .. }));
        values.push(&event(TEXTS), None);
        assert!(matches!(values.groups(), Err(NoReport::TooManyValues)));
    }
}
