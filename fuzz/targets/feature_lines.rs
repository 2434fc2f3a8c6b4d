//! A view: each line of the input is a feature; a line that begins with `where`, `derived` or `hop` sets that. What compiles is fed and read,
//! goes through a snapshot, and comes out with the same bits.
#![no_main]

use kilter_core::{EntityKey, EventTime, Span};
use kilter_features::{Engine, compile_view};
use kilter_fuzz::{column, events, spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut spec = spec();
    for (i, line) in text.lines().take(8).enumerate() {
        let name = format!("f{i}");
        match line.split_once(' ') {
            Some(("where", rest)) => spec.filter = Some(rest.into()),
            Some(("derived", rest)) => spec.derived.push(column(&name, rest)),
            Some(("hop", rest)) => spec.hop = Span::parse(rest),
            Some(("key", _)) => spec.key = vec!["n".into()],
            _ => spec.columns.push(column(&name, line)),
        }
    }
    let Ok(view) = compile_view(&spec) else { return };
    let types: Vec<_> = view.features().iter().map(|f| f.data_type).collect();
    let mut engine = Engine::new(vec![view.clone()]);
    for event in events() {
        engine.update(&event);
        read(&mut engine, event.time, &types);
    }
    let mut bytes = Vec::new();
    engine.snapshot(&mut bytes);
    let mut restored = Engine::restore(vec![view], &bytes).expect("what was just written is read");
    for at in [EventTime::EARLIEST, EventTime(1_767_225_700_000_000), EventTime::LATEST] {
        let (a, b) = (read(&mut engine, at, &types), read(&mut restored, at, &types));
        assert!(a.iter().zip(&b).all(|(a, b)| a.same_bits(b)), "{a:?} before, {b:?} after");
    }
});

fn read(engine: &mut Engine, at: EventTime, types: &[kilter_core::DataType]) -> Vec<kilter_core::Value> {
    let mut out = Vec::new();
    engine.read(0, &EntityKey::Int(1), at, &mut out);
    assert_eq!(out.len(), types.len());
    assert!(out.iter().zip(types).all(|(value, t)| value.is_null() || value.fits(*t)), "{out:?} against {types:?}");
    out
}
