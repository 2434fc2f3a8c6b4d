//! `AGGREGATE(x) by category [max n]`: a state for each category. The first n categories of a tile have a state of their own (32 unless said
//! otherwise), all others share that of `__other__`; so does what is merged beyond n. The answer is a map from category to number.

use std::marker::PhantomData;

use kilter_core::{CompactString, Value};

use super::{Fixed, Growing, Input, Reading, words};

/// Categories kept apart when the line does not say.
pub(crate) const DEFAULT_MOST: f64 = 32.0;
/// The most that may be asked for.
pub(crate) const LIMIT: f64 = 10_000.0;
pub(crate) const OTHER: &str = "__other__";

/// Entries of a state and the category behind it, in the order in which they came.
pub(super) struct By<A>(PhantomData<A>);

fn most(constants: &[f64]) -> usize {
    constants.first().map_or(DEFAULT_MOST, |n| *n) as usize
}

/// Where the state of a category lies; it is made if need be.
fn find<A: Fixed>(state: &mut Vec<u64>, category: &[u64], most: usize) -> usize {
    let mut apart = 0;
    let mut other = Vec::new();
    words::put(&mut other, &Value::text(OTHER));
    let mut others = None;
    for range in words::entries(state, A::WORDS) {
        let held = &state[range.start + A::WORDS..range.end];
        if held == category {
            return range.start;
        }
        if held == other {
            others = Some(range.start);
        } else {
            apart += 1;
        }
    }
    let (place, category) = match apart >= most && category != other {
        true => match others {
            Some(place) => return place,
            None => (state.len(), other.as_slice()),
        },
        false => (state.len(), category),
    };
    state.resize(place + A::WORDS, 0);
    state.extend_from_slice(category);
    place
}

impl<A: Fixed> Growing for By<A> {
    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        let mut category = Vec::new();
        match input.other {
            Value::Text(_) => words::put(&mut category, input.other),
            other => words::put(&mut category, &Value::text(&other.to_string())),
        }
        let place = find::<A>(state, &category, most(input.constants));
        A::update(&mut state[place..place + A::WORDS], input);
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], constants: &[f64]) {
        for range in words::entries(later, A::WORDS) {
            let place = find::<A>(state, &later[range.start + A::WORDS..range.end], most(constants));
            A::merge(&mut state[place..place + A::WORDS], &later[range.start..range.start + A::WORDS]);
        }
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let mut found: Vec<(CompactString, f64)> = words::entries(state, A::WORDS)
            .filter_map(|range| {
                let (own, category) = state[range].split_at(A::WORDS);
                let Value::Text(category) = words::get(category) else { return None };
                let number = A::output(own, reading).as_f64().filter(|x| x.is_finite())?;
                Some((category, number))
            })
            .collect();
        found.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        Value::Map(found.into())
    }
}
