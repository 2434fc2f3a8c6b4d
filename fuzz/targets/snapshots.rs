//! The state of the engine from bytes: refused, or an engine that works and writes a snapshot of its own. The first byte chooses the view and
//! whether the bytes are a whole snapshot, or (its second bit) the head of state beyond memory and the form of an entity in the store. The
//! checksum is added here, or nothing would ever get past it.
#![no_main]

use kilter_core::{EntityKey, EventTime};
use kilter_features::Engine;
use kilter_fuzz::{OneForm, events, full_view, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let changing = *choice & 1 == 1;
    match *choice & 2 {
        0 => whole(changing, bytes),
        _ => stored(changing, bytes),
    }
});

fn whole(changing: bool, bytes: &[u8]) {
    let views = || vec![full_view(changing)];
    let Ok(mut engine) = Engine::restore(views(), &sealed(bytes)) else { return };
    let mut written = Vec::new();
    engine.snapshot(&mut written);
    let mut twin = Engine::restore(views(), &written).expect("what was just written is read");
    let mut again = Vec::new();
    twin.snapshot(&mut again);
    assert!(written == again, "a restored engine writes another snapshot");
    // As a part of a state it comes once and no more, if there is anything in it.
    let mut together = Engine::new(views());
    together.absorb(0, &mut twin, 0).expect("nothing was there before");
    let mut part = Engine::restore(views(), &written).expect("what was just written is read");
    let _ = together.absorb(0, &mut part, 0);
    work(&mut engine);
}

fn stored(changing: bool, bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((head, form)) = rest.split_at_checked(u16::from_le_bytes(*length).into()) else { return };
    let Ok(mut engine) = Engine::resume(vec![full_view(changing)], &sealed(head)) else { return };
    engine.attach(0, Box::new(OneForm(form.to_vec())));
    work(&mut engine);
    let changes = engine.changes();
    engine.written(|_| 0);
    engine.evict(0);
    if engine.failure().is_none() {
        let mut twin = Engine::resume(vec![full_view(changing)], &changes.head).expect("what was just written is read");
        let form = changes.views.into_iter().flat_map(|v| v.put).next().map(|(_, form)| form);
        twin.attach(0, Box::new(OneForm(form.unwrap_or_default())));
        work(&mut twin);
    }
}

fn work(engine: &mut Engine) {
    let mut values = Vec::new();
    for at in [EventTime::EARLIEST, EventTime(1_767_225_700_000_000), EventTime::LATEST] {
        values.clear();
        engine.read(0, &EntityKey::Int(1), at, &mut values);
    }
    for event in events() {
        engine.update(&event);
        values.clear();
        engine.read(0, &EntityKey::Int(1), event.time, &mut values);
    }
    let _ = engine.stats();
}
