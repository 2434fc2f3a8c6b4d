//! The training rows of a project that several workers share: of each shard from its part of the lake, by the engine of the live path.
//!
//! Entities and their labels lie in one shard each, so what the shards give together is what one log of all events would give.
//! See `docs/decisions/0041-one-shard-trains-for-all.md`.

use std::sync::Arc;

use anyhow::Context;
use kilter_core::Offset;
use kilter_lake::Lake;
use kilter_pipeline::{Feed, Freshness, Observations, Plan, Range};

use crate::catalog::{Decoder, Record};
use crate::history::History;

/// How far each of so many shards is in the lake.
///
/// # Errors
/// There is no lake, or it does not answer.
pub fn reached(history: &History, shards: u32) -> anyhow::Result<Vec<Offset>> {
    (0..shards).map(|shard| Ok(lake(history, shard)?.state().next)).collect()
}

/// Observations of a model in `range`, with the labels known before these offsets, the exclusive end of each shard: shard by shard, in the order of its log.
///
/// # Errors
/// Storage that does not answer; records that the lake has lost.
pub fn observe(history: &History, plan: &Arc<Plan>, model: usize, range: Range, until: &[Offset]) -> anyhow::Result<Observations> {
    let mut all: Option<Observations> = None;
    for (shard, &end) in (0..).zip(until) {
        let lake = lake(history, shard)?;
        let found =
            one(&lake, plan, model, range, end).with_context(|| format!("reading the training rows of shard {shard} from the lake"))?;
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

fn one(lake: &Arc<Lake>, plan: &Arc<Plan>, model: usize, range: Range, until: Offset) -> anyhow::Result<Observations> {
    let mut feed = Feed::new(Arc::clone(plan), model, range, Freshness::Live, None);
    let mut reader = lake.reader(lake.state().first);
    let mut decoder = Decoder::of(plan, []);
    let mut known = 0;
    while reader.next_offset() < until {
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
