//! The inputs themselves instead of a state, for aggregates whose state cannot give one back: what is retracted is struck out, and the value
//! is computed from what is left, as if the other had never been.

use std::marker::PhantomData;

use kilter_core::{EventTime, Value};

use super::{Fixed, Growing, GrowingOps, Input, MAX_WORDS, Reading, words};

/// An aggregate over inputs in the order in which they came.
pub(super) trait Replay: 'static {
    fn value(inputs: &mut dyn Iterator<Item = (EventTime, Value, Value)>, reading: &Reading<'_>) -> Value;
}

pub(super) struct OfFixed<A>(PhantomData<A>);
pub(super) struct OfGrowing<A>(PhantomData<A>);

impl<A: Fixed> Replay for OfFixed<A> {
    fn value(inputs: &mut dyn Iterator<Item = (EventTime, Value, Value)>, reading: &Reading<'_>) -> Value {
        let mut state = [0; MAX_WORDS];
        let state = &mut state[..A::WORDS];
        for (time, value, other) in inputs {
            A::update(state, &Input { offset: 0, time, value: &value, other: &other, constants: reading.constants });
        }
        A::output(state, reading)
    }
}

impl<A: Growing> Replay for OfGrowing<A> {
    fn value(inputs: &mut dyn Iterator<Item = (EventTime, Value, Value)>, reading: &Reading<'_>) -> Value {
        let mut state = Vec::new();
        for (time, value, other) in inputs {
            A::update(&mut state, &Input { offset: 0, time, value: &value, other: &other, constants: reading.constants });
        }
        A::output(&state, reading)
    }
}

/// Entries of an event's offset and time, its value and the value behind it, in the order in which they came.
struct Kept<R>(PhantomData<R>);

/// The kept form of a fixed aggregate.
pub(super) fn of_fixed<A: Fixed>() -> GrowingOps {
    GrowingOps::only::<Kept<OfFixed<A>>>()
}

/// The kept form of a growing aggregate.
pub(super) fn of_growing<A: Growing>() -> GrowingOps {
    GrowingOps::only::<Kept<OfGrowing<A>>>()
}

fn entry(input: &Input<'_>) -> Vec<u64> {
    let mut entry = vec![input.offset, input.time.0 as u64];
    words::put(&mut entry, input.value);
    words::put(&mut entry, input.other);
    entry
}

/// Where each entry starts and ends.
fn entries(state: &[u64]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let value = state.get(start + 2..)?;
        let other = value.get(words::len(value)..).filter(|o| !o.is_empty())?;
        at = start + 2 + words::len(value) + words::len(other);
        Some(start..at)
    })
}

impl<R: Replay> Growing for Kept<R> {
    const GROUP: bool = true;

    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        state.extend(entry(input));
    }

    fn retract(state: &mut Vec<u64>, input: &Input<'_>) {
        let found = entries(state).find(|range| state[range.start] == input.offset);
        if let Some(range) = found {
            state.drain(range);
        }
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        state.extend_from_slice(later);
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let mut inputs = entries(state).map(|range| {
            let value = &state[range.start + 2..range.end];
            (EventTime(state[range.start + 1] as i64), words::get(value), words::get(&value[words::len(value)..]))
        });
        R::value(&mut inputs, reading)
    }
}
