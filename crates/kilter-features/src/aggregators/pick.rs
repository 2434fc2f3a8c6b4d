//! `first(x)` and `last(x)` by event time; nulls are skipped. Of events at the same instant, first takes the earliest to arrive, last the latest.

use kilter_core::{DataType, EventTime, Value};

use super::{Aggregator, Bound, Fixed, Fold, Growing, Input, Ops, Reading, Takes};

pub(super) static FIRST: Aggregator = Aggregator::new(&["first"], Takes::Value, bind::<false>);
pub(super) static LAST: Aggregator = Aggregator::new(&["last"], Takes::Value, bind::<true>);

fn bind<const LAST: bool>(t: Option<DataType>) -> Result<Bound, &'static str> {
    let Some(result) = t else { return Err("a value") };
    let ops = match result {
        DataType::Bool => Ops::fixed::<Pick<LAST, BOOL>>(),
        DataType::Int64 => Ops::fixed::<Pick<LAST, INT>>(),
        DataType::Float64 => Ops::fixed::<Pick<LAST, FLOAT>>(),
        DataType::Timestamp => Ops::fixed::<Pick<LAST, TIME>>(),
        DataType::String => Ops::growing::<PickText<LAST>>(),
        _ => return Err("a value of a column"),
    };
    let state = if LAST { "last" } else { "first" };
    Ok(Bound::new(state, ops, result).ordered())
}

/// Whether the event at `new` takes the place of the one at `held`, having arrived after it.
fn replaces<const LAST: bool>(new: u64, held: u64) -> bool {
    if LAST { new as i64 >= held as i64 } else { (new as i64) < held as i64 }
}

const BOOL: u8 = 0;
const INT: u8 = 1;
const FLOAT: u8 = 2;
const TIME: u8 = 3;

/// Whether there is a value, its event time, its bits.
struct Pick<const LAST: bool, const TYPE: u8>;

impl<const LAST: bool, const TYPE: u8> Fixed for Pick<LAST, TYPE> {
    const WORDS: usize = 3;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let bits = match input.value {
            Value::Bool(b) => u64::from(*b),
            Value::Int(i) if TYPE == FLOAT => (*i as f64).to_bits(),
            Value::Int(i) => *i as u64,
            Value::Float(x) => x.to_bits(),
            Value::Time(t) => t.0 as u64,
            _ => return,
        };
        Self::merge(state, &[1, input.time.0 as u64, bits]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] != 0 && (state[0] == 0 || replaces::<LAST>(later[1], state[1])) {
            state.copy_from_slice(later);
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match (state[0], TYPE) {
            (0, _) => Value::Null,
            (_, BOOL) => Value::Bool(state[2] != 0),
            (_, INT) => Value::Int(state[2] as i64),
            (_, FLOAT) => Value::float(f64::from_bits(state[2])),
            _ => Value::Time(EventTime(state[2] as i64)),
        }
    }

    // Tiles follow one another in time, so the newest (oldest) that has a value has the last (first) one.
    fn fold(state: &mut [u64], words: &[u64], stride: usize, offset: usize) {
        let mut tiles = words.chunks_exact(stride).map(|tile| &tile[offset..offset + Self::WORDS]);
        let found = if LAST { tiles.rfind(|t| t[0] != 0) } else { tiles.find(|t| t[0] != 0) };
        if let Some(tile) = found {
            Self::merge(state, tile);
        }
    }
}

/// Event time, length in bytes, then the bytes in words.
struct PickText<const LAST: bool>;

impl<const LAST: bool> Growing for PickText<LAST> {
    const FOLD: Fold = if LAST { Fold::Newest } else { Fold::Oldest };

    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        let Value::Text(text) = input.value else { return };
        let time = input.time.0 as u64;
        if state.first().is_none_or(|held| replaces::<LAST>(time, *held)) {
            state.clear();
            state.reserve_exact(2 + text.len().div_ceil(8));
            state.extend([time, text.len() as u64]);
            state.extend(text.as_bytes().chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            }));
        }
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        let Some(new) = later.first() else { return };
        if state.first().is_none_or(|held| replaces::<LAST>(*new, *held)) {
            state.clear();
            state.extend_from_slice(later);
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        let [_, len, words @ ..] = state else { return Value::Null };
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.truncate(*len as usize);
        std::str::from_utf8(&bytes).map_or(Value::Null, Value::text)
    }
}
