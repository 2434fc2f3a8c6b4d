//! The training rows of a project that several workers share: of each shard from its part of the lake, by the engine of the live path.
//!
//! Entities and their labels lie in one shard each, so what the shards give together is what one log of all events would give.
//! See `docs/decisions/0041-one-shard-trains-for-all.md`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kilter_core::Offset;
use kilter_lake::Lake;
use kilter_pipeline::{Feed, Freshness, Observations, Plan, Range};

use crate::catalog::{Decoder, Record};
use crate::history::History;
use crate::sequencer::Refusal;

/// How far each of so many shards is in the lake.
///
/// # Errors
/// There is no lake, or it does not answer.
pub fn reached(history: &History, shards: u32) -> anyhow::Result<Vec<Offset>> {
    (0..shards).map(|shard| Ok(lake(history, shard)?.state().next)).collect()
}

/// Observations of a model in `range`, with the labels known before these offsets, the exclusive end of each shard: shard by shard, in the order of its log.
/// A row is there only if its own shard has seen the end of its label's time before that offset.
///
/// # Errors
/// Storage that does not answer; records that the lake has lost.
pub fn observe(history: &History, plan: &Arc<Plan>, model: usize, range: Range, until: &[Offset]) -> anyhow::Result<Observations> {
    observe_while(history, plan, model, range, until, &|| true)
}

/// The same, as long as there is somebody who `wants` it.
pub(crate) fn observe_while(
    history: &History,
    plan: &Arc<Plan>,
    model: usize,
    range: Range,
    until: &[Offset],
    wants: &dyn Fn() -> bool,
) -> anyhow::Result<Observations> {
    let mut all: Option<Observations> = None;
    for (shard, &end) in (0..).zip(until) {
        let lake = lake(history, shard)?;
        let found = one(&lake, plan, model, range, end, wants)
            .with_context(|| format!("reading the training rows of shard {shard} from the lake"))?
            .settled();
        all = Some(match all {
            Some(all) => all.joined(found),
            None => found,
        });
    }
    all.context("a project without shards")
}

fn lake(history: &History, shard: u32) -> anyhow::Result<Arc<Lake>> {
    history.lake_of(shard)?.context("the project has no lake\n  hint: add [lake] with a `url`")
}

fn one(
    lake: &Arc<Lake>,
    plan: &Arc<Plan>,
    model: usize,
    range: Range,
    until: Offset,
    wants: &dyn Fn() -> bool,
) -> anyhow::Result<Observations> {
    let mut feed = Feed::new(Arc::clone(plan), model, range, Freshness::Live, None);
    let mut reader = lake.reader(lake.state().first);
    let mut decoder = Decoder::of(plan, []);
    let mut known = 0;
    while reader.next_offset() < until {
        ensure!(wants(), Refusal::Stopping);
        let Some((offset, bytes)) = reader.next_record()?.map(|(offset, bytes)| (offset, bytes.to_vec())) else { break };
        let schemas = reader.schemas();
        if schemas.len() > known {
            known = schemas.len();
            decoder = Decoder::of(plan, schemas.iter().map(|(number, (source, columns))| (*number, (source.as_str(), columns))));
        }
        if offset < until
            && let Record::Event(event) = decoder.decode(offset, &bytes)?
        {
            feed.feed(&event);
        }
    }
    Ok(feed.finish())
}
