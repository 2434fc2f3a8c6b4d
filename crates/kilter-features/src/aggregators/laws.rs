//! What every aggregate of the register declares of itself, checked on random inputs: its algebra, its order, its taking back.

use kilter_core::{DataType, EventTime, Value};
use proptest::prelude::*;

use super::{ALL, Aggregator, Bound, Constants, Equality, Fold, Input, Ops, Reading, Takes};

const TYPES: [DataType; 5] = DataType::COLUMNS;

#[derive(Clone, Debug)]
struct Given {
    offset: u64,
    time: EventTime,
    value: Value,
    other: Value,
}

/// Any state of any aggregate.
#[derive(Clone, Debug, PartialEq)]
struct State(Vec<u64>);

impl State {
    fn empty(ops: &Ops) -> State {
        State(match ops {
            Ops::Fixed(ops) => vec![0; ops.words],
            Ops::Growing(_) => Vec::new(),
        })
    }

    fn of(ops: &Ops, given: &[Given], constants: &[f64]) -> State {
        let mut state = State::empty(ops);
        given.iter().for_each(|g| state.update(ops, g, constants));
        state
    }

    fn update(&mut self, ops: &Ops, g: &Given, constants: &[f64]) {
        let input = Input { offset: g.offset, time: g.time, value: &g.value, other: &g.other, constants };
        match ops {
            Ops::Fixed(ops) => (ops.update)(&mut self.0, &input),
            Ops::Growing(ops) => (ops.update)(&mut self.0, &input),
        }
    }

    fn retract(&mut self, ops: &Ops, g: &Given, constants: &[f64]) {
        let input = Input { offset: g.offset, time: g.time, value: &g.value, other: &g.other, constants };
        match ops {
            Ops::Fixed(ops) => (ops.retract)(&mut self.0, &input),
            Ops::Growing(ops) => (ops.retract)(&mut self.0, &input),
        }
    }

    fn then(mut self, ops: &Ops, later: &State, constants: &[f64]) -> State {
        match ops {
            Ops::Fixed(ops) => (ops.fold)(&mut self.0, &later.0, ops.words, 0),
            Ops::Growing(ops) => match ops.fold {
                Fold::All => (ops.merge)(&mut self.0, &later.0, constants),
                Fold::Oldest if self.0.is_empty() => return later.clone(),
                Fold::Newest if !later.0.is_empty() => return later.clone(),
                _ => {}
            },
        }
        self
    }

    fn output(&self, ops: &Ops, constants: &[f64]) -> Value {
        let reading = Reading { at: EventTime(50_000_000), constants, span: Some(60_000_000) };
        match ops {
            Ops::Fixed(ops) => (ops.output)(&self.0, &reading),
            Ops::Growing(ops) => (ops.output)(&self.0, &reading),
        }
    }
}

/// Every aggregate with every type it takes, and constants for it.
fn cases() -> Vec<(&'static Aggregator, DataType, Bound, Vec<f64>)> {
    let mut cases = Vec::new();
    for aggregator in ALL {
        let constants: Vec<f64> = match aggregator.takes {
            Takes::ValueAnd(Constants::Fraction) => vec![0.3],
            Takes::ValueAnd(Constants::Count) => vec![3.0],
            Takes::ValueAnd(Constants::Edges) => vec![-10.0, 0.0, 20.0],
            _ => vec![],
        };
        for t in TYPES {
            if let Ok(bound) = (aggregator.bind)(Some(t)) {
                let constants = constants.iter().chain(bound.constants).copied().collect();
                cases.push((*aggregator, t, bound, constants));
            }
        }
    }
    assert!(cases.len() > 60);
    cases
}

fn value(t: DataType, seed: i64) -> Value {
    match t {
        DataType::Bool => Value::Bool(seed % 3 == 0),
        DataType::Int64 => Value::Int(seed % 40 - 20),
        DataType::Float64 => Value::Float((seed % 400 - 200) as f64 / 7.0),
        DataType::Timestamp => Value::Time(EventTime(seed % 30)),
        _ => Value::text(["", "a", "b", "a text that takes more than one word", "ž"][(seed % 5) as usize]),
    }
}

/// Inputs in the order of their times, some at the same instant.
fn given(t: DataType) -> impl Strategy<Value = Vec<Given>> {
    prop::collection::vec((0i64..30, 0i64..1_000, 0i64..4), 0..24).prop_map(move |mut rows| {
        rows.sort_by_key(|r| r.0);
        let given =
            |(i, (time, v, o))| Given { offset: i as u64, time: EventTime(time * 1_000_000), value: value(t, v), other: Value::Int(o) };
        rows.into_iter().enumerate().map(given).collect()
    })
}

fn agree(bound: &Bound, a: &Value, b: &Value) -> bool {
    match (bound.equality, a, b) {
        // Powers of deviations near zero: the shape of nearly equal values is ill-conditioned, these inputs are not nearly equal.
        (Equality::Tolerance(_), Value::Float(a), Value::Float(b)) => (a - b).abs() <= 1e-7 * (1.0 + a.abs().max(b.abs())),
        _ => a.same_bits(b),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn every_aggregate_keeps_its_word(
        (case, rows) in (0..cases().len()).prop_flat_map(|i| (Just(i), given(cases()[i].1))),
        cuts in (0usize..25, 0usize..25),
        shuffle in any::<u64>(),
        gone in prop::collection::vec(any::<bool>(), 24),
    ) {
        let (aggregator, _, bound, constants) = cases().swap_remove(case);
        let name = aggregator.names[0];
        let ops = bound.ops;
        let (a, b) = (cuts.0.min(cuts.1).min(rows.len()), cuts.0.max(cuts.1).min(rows.len()));
        let parts = [&rows[..a], &rows[a..b], &rows[b..]].map(|part| State::of(&ops, part, &constants));
        let whole = State::of(&ops, &rows, &constants).output(&ops, &constants);

        // Merging is associative, has the empty state as its unit, and is what updating one by one gives.
        let [x, y, z] = &parts;
        let left = x.clone().then(&ops, y, &constants).then(&ops, z, &constants);
        let right = x.clone().then(&ops, &y.clone().then(&ops, z, &constants), &constants);
        for merged in [&left, &right] {
            prop_assert!(agree(&bound, &merged.output(&ops, &constants), &whole), "{name}: {:?} for {whole:?}", merged.output(&ops, &constants));
        }
        let empty = State::empty(&ops);
        prop_assert_eq!(x.clone().then(&ops, &empty, &constants).output(&ops, &constants), x.output(&ops, &constants), "{}", name);
        prop_assert_eq!(empty.then(&ops, x, &constants).output(&ops, &constants), x.output(&ops, &constants), "{}", name);

        // Where order is said not to matter, it does not, to the bit.
        if !bound.order_sensitive {
            let mut rows = rows.clone();
            let mut rng = kilter_stats::Rng::seeded(shuffle);
            for i in (1..rows.len()).rev() {
                rows.swap(i, rng.below(i as u64 + 1) as usize);
            }
            let shuffled = State::of(&ops, &rows, &constants).output(&ops, &constants);
            prop_assert!(shuffled.same_bits(&whole), "{name}: {shuffled:?} for {whole:?}");
            if let Ops::Growing(super::GrowingOps { fold: Fold::All, .. }) = ops {
                let turned = z.clone().then(&ops, y, &constants).then(&ops, x, &constants).output(&ops, &constants);
                prop_assert!(turned.same_bits(&whole), "{name}: {turned:?} for {whole:?}");
            }
        }

        // Taking back leaves no trace.
        let back = ops.retractable();
        let mut state = State::of(&back, &rows, &constants);
        let struck: Vec<&Given> = rows.iter().zip(&gone).filter(|(_, gone)| **gone).map(|(g, _)| g).collect();
        struck.iter().rev().for_each(|g| state.retract(&back, g, &constants));
        let rest: Vec<Given> = rows.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|(g, _)| g.clone()).collect();
        let want = State::of(&ops, &rest, &constants).output(&ops, &constants);
        let got = state.output(&back, &constants);
        prop_assert!(got.same_bits(&want), "{name}: {got:?} for {want:?}");
        let mut undone = State::of(&back, &rest, &constants);
        let before = undone.clone();
        for g in &struck {
            undone.update(&back, g, &constants);
            undone.retract(&back, g, &constants);
        }
        prop_assert_eq!(undone, before, "{}", name);

        // By category, each has what it would have alone.
        if let Some(by) = ops.by_category().filter(|_| matches!(bound.result, DataType::Int64 | DataType::Float64)) {
            let Value::Map(map) = State::of(&by, &rows, &[3.0]).output(&by, &[3.0]) else { panic!("{name} by category is no map") };
            let mut came: Vec<&Value> = Vec::new();
            rows.iter().for_each(|g| if !came.contains(&&g.other) { came.push(&g.other) });
            let category = |g: &Given| match came[..came.len().min(3)].contains(&&g.other) {
                true => g.other.to_string(),
                false => "__other__".into(),
            };
            let mut names: Vec<String> = rows.iter().map(&category).collect();
            names.sort();
            names.dedup();
            let mut want = Vec::new();
            for name in names {
                let own: Vec<Given> = rows.iter().filter(|g| category(g) == name).cloned().collect();
                if let Some(x) = State::of(&ops, &own, &[]).output(&ops, &[]).as_f64().filter(|x| x.is_finite()) {
                    want.push((name, x.to_bits()));
                }
            }
            let got: Vec<(String, u64)> = map.iter().map(|(k, x)| (k.to_string(), x.to_bits())).collect();
            prop_assert_eq!(got, want, "{}", name);
        }
    }
}
