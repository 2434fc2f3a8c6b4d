//! `time_since_last()`: seconds from the latest event to the moment of reading, never below 0. Empty: null.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Equality, Fixed, Input, Ops, Reading, Takes};

pub(super) static TIME_SINCE_LAST: Aggregator = Aggregator {
    names: &["time_since_last"],
    takes: Takes::Nothing,
    bind: |_| {
        Ok(Bound {
            state: "latest",
            ops: Ops::fixed::<Latest>(),
            result: DataType::Float64,
            equality: Equality::Bitwise,
            order_sensitive: false,
            error: 0.0,
        })
    },
};

/// Whether there is an event, then the latest event time.
struct Latest;

impl Fixed for Latest {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, input.time.0 as u64]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] != 0 && (state[0] == 0 || later[1] as i64 > state[1] as i64) {
            state.copy_from_slice(later);
        }
    }

    fn output(state: &[u64], reading: &Reading) -> Value {
        match state[0] {
            0 => Value::Null,
            _ => Value::Float(reading.at.0.saturating_sub(state[1] as i64).max(0) as f64 / 1e6),
        }
    }

    // The newest tile that has an event has the latest.
    fn fold(state: &mut [u64], words: &[u64], stride: usize, offset: usize) {
        let mut tiles = words.chunks_exact(stride).map(|tile| &tile[offset..offset + Self::WORDS]);
        if let Some(tile) = tiles.rfind(|t| t[0] != 0) {
            Self::merge(state, tile);
        }
    }
}
