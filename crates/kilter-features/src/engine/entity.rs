//! The state of one entity, in one run of words.
//!
//! While an entity has seen few events it keeps the events themselves: most entities of most streams never see more, and their tiles would
//! take several times the room. Then it keeps a row of tiles for each level of the plan, one row behind the other. Which of the two it
//! keeps is a function of its events, and nothing that is read of it tells.

use kilter_core::{EntityKey, EventTime};
use smallvec::SmallVec;
use std::borrow::Cow;

use super::Inputs;
use super::row::{Blocks, Row, first_at_least};
use super::tier::Tier;
use crate::aggregators::words as values;
use crate::view::{LevelPlan, Periods, Plan};

/// In the place of a count of events: the entity has tiles.
pub(super) const TILED: u8 = u8::MAX;
/// Words of an event before its passed filters: its length, offset and time.
const EVENT_HEAD: usize = 3;

pub(super) struct Entity {
    pub key: EntityKey,
    /// Its newest event.
    pub last: EventTime,
    /// Events, each headed by its length; or where each level's row ends, then the rows.
    words: Vec<u64>,
    /// What does not lie in a run of words.
    side: Option<Box<Side>>,
    /// Events since it began, while it keeps them.
    events: u8,
    pub tier: Tier,
}

#[derive(Clone, Default)]
struct Side {
    /// By level: the growing states, tile by tile.
    growing: Box<[Vec<Vec<u64>>]>,
    /// By level: kept folds.
    blocks: Box<[Option<Blocks>]>,
}

impl Entity {
    pub(super) fn new(plan: &Plan, key: EntityKey, last: EventTime) -> Entity {
        let mut entity = Entity { key, last, words: Vec::new(), side: None, events: 0, tier: Tier::default() };
        if plan.few == 0 {
            entity.lay_out(plan);
        }
        entity
    }

    /// Starts over as if it had never been.
    pub(super) fn begin(&mut self, plan: &Plan, last: EventTime) {
        let key = std::mem::replace(&mut self.key, EntityKey::Bool(false));
        *self = Entity { tier: self.tier, ..Entity::new(plan, key, last) };
    }

    /// Empty rows.
    fn lay_out(&mut self, plan: &Plan) {
        let levels = plan.levels.len();
        self.words.clear();
        self.words.resize(levels, levels as u64);
        self.events = TILED;
        self.side = None;
        if plan.levels.iter().any(|l| !l.growing.is_empty()) {
            self.side(levels);
        }
    }

    fn side(&mut self, levels: usize) -> &mut Side {
        self.side.get_or_insert_with(|| Box::new(Side { growing: vec![Vec::new(); levels].into(), blocks: vec![None; levels].into() }))
    }

    pub(super) fn bytes(&self) -> usize {
        let key = match &self.key {
            EntityKey::Composite(parts) => parts.len() * size_of::<EntityKey>(),
            EntityKey::Text(text) if text.is_heap_allocated() => text.capacity(),
            _ => 0,
        };
        let growing = |row: &Vec<Vec<u64>>| row.capacity() * size_of::<Vec<u64>>() + row.iter().map(|g| g.capacity() * 8).sum::<usize>();
        let side = self.side.as_ref().map_or(0, |side| {
            let blocks: usize = side.blocks.iter().flatten().map(Blocks::bytes).sum();
            let rows = side.growing.len() * (size_of::<Vec<Vec<u64>>>() + size_of::<Option<Blocks>>());
            size_of::<Side>() + rows + blocks + side.growing.iter().map(growing).sum::<usize>()
        });
        size_of::<Entity>() + key + self.words.capacity() * 8 + side
    }

    pub(super) fn tiles(&self, plan: &Plan) -> usize {
        if self.events == TILED { (0..plan.levels.len()).map(|l| self.row(plan, l).len()).sum() } else { 0 }
    }

    /// How many events it has seen, if it keeps them.
    pub(super) fn kept_events(&self) -> Option<u8> {
        (self.events != TILED).then_some(self.events)
    }

    /// The row of a level; events that are kept have none.
    pub(super) fn row<'a>(&'a self, plan: &'a Plan, level: usize) -> Row<'a> {
        let side = self.side.as_deref();
        Row {
            level: &plan.levels[level],
            words: &self.words[self.start(plan, level)..self.words[level] as usize],
            growing: side.map_or(&[], |s| &s.growing[level]),
            blocks: side.and_then(|s| s.blocks[level].as_ref()),
        }
    }

    /// Where a level's row starts in the words.
    fn start(&self, plan: &Plan, level: usize) -> usize {
        match level.checked_sub(1) {
            None => plan.levels.len(),
            Some(before) => self.words[before] as usize,
        }
    }

    /// Whether anything of it may still be seen, whenever it is read.
    pub(super) fn is_alive(&self, plan: &Plan, bounds: &[i64], periods: &mut [Periods]) -> bool {
        plan.levels.iter().zip(bounds).zip(periods).enumerate().any(|(l, ((level, bound), periods))| match level.latest() {
            // Every admitted event opened a tile, and none is newer than its newest.
            None => level.tiling.tile(self.last, periods) >= *bound,
            Some(_) if self.events == TILED => !self.row(plan, l).is_empty(),
            Some(_) => self.events(plan).any(|event| event.passes(level.filter)),
        })
    }

    /// Adds an event to the levels that it enters.
    pub(super) fn apply(&mut self, plan: &Plan, tiles: &[i64], bounds: &[i64], inputs: &Inputs<'_>) {
        if self.events != TILED {
            if self.events + 1 < plan.few {
                self.events += 1;
                return self.keep(plan, inputs);
            }
            self.unfold(plan, bounds);
        }
        for (l, level) in plan.levels.iter().enumerate() {
            if tiles[l] >= bounds[l] {
                self.apply_to(plan, l, level, tiles[l], bounds[l], inputs);
            }
        }
    }

    fn keep(&mut self, plan: &Plan, inputs: &Inputs<'_>) {
        let start = self.words.len();
        if self.words.capacity() == start {
            // An entity's first events decide what most of all memory goes to.
            let event = EVENT_HEAD + plan.shared.filters.len().div_ceil(64) + 2 * plan.shared.args.len();
            self.words.reserve_exact(event.max(start / 2));
        }
        self.words.extend([0, inputs.offset, inputs.time.0 as u64]);
        for passed in inputs.passed.chunks(64) {
            self.words.push(passed.iter().enumerate().fold(0, |bits, (i, passed)| bits | u64::from(*passed) << i));
        }
        inputs.args.iter().for_each(|arg| values::put(&mut self.words, arg));
        self.words[start] = (self.words.len() - start) as u64;
    }

    /// The events that are kept.
    pub(super) fn events<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = Inputs<'static>> + 'a {
        runs(&self.words).map(|run| read_event(plan, run))
    }

    /// The words of the kept events that some level still admits.
    pub(super) fn admitted_events<'a>(
        &'a self,
        plan: &'a Plan,
        bounds: &'a [i64],
        periods: &'a mut [Periods],
    ) -> impl Iterator<Item = &'a [u64]> {
        runs(&self.words).filter(move |run| {
            let time = EventTime(run[2] as i64);
            plan.levels.iter().zip(&mut *periods).zip(bounds).any(|((l, periods), bound)| l.tiling.tile(time, periods) >= *bound)
        })
    }

    /// From events to tiles.
    fn unfold(&mut self, plan: &Plan, bounds: &[i64]) {
        let kept = std::mem::take(&mut self.words);
        self.lay_out(plan);
        self.fill(plan, bounds, &kept);
    }

    fn fill(&mut self, plan: &Plan, bounds: &[i64], kept: &[u64]) {
        let mut periods: SmallVec<[Periods; 8]> = smallvec::smallvec![Periods::default(); plan.levels.len()];
        for inputs in runs(kept).map(|run| read_event(plan, run)) {
            for (l, level) in plan.levels.iter().enumerate() {
                let tile = level.tiling.tile(inputs.time, &mut periods[l]);
                if tile >= bounds[l] {
                    self.apply_to(plan, l, level, tile, bounds[l], &inputs);
                }
            }
        }
    }

    /// Takes the tiles that another one's kept events make.
    pub(super) fn unfold_from(&mut self, plan: &Plan, other: &Entity, bounds: &[i64]) {
        self.last = other.last;
        self.lay_out(plan);
        self.fill(plan, bounds, &other.words);
    }

    fn apply_to(&mut self, plan: &Plan, l: usize, level: &LevelPlan, tile: i64, bound: i64, inputs: &Inputs<'_>) {
        let place = match level.latest() {
            Some(most) => match self.place_latest(plan, l, level, tile, most, inputs) {
                Some(place) => place,
                None => return,
            },
            None => {
                let (start, end) = (self.start(plan, l), self.words[l] as usize);
                if end > start && self.words[end - level.stride] as i64 == tile {
                    (end - start) / level.stride - 1
                } else {
                    let place = first_at_least(&self.words[start..end], level.stride, tile);
                    if self.words[start..end].get(place * level.stride).is_none_or(|t| *t as i64 != tile) {
                        self.prune_lazily(plan, l, level, bound);
                        let row = &self.words[self.start(plan, l)..self.words[l] as usize];
                        let place = first_at_least(row, level.stride, tile);
                        self.open(plan, l, level, place, tile)
                    } else {
                        place
                    }
                }
            }
        };
        self.touch(l, level, tile);
        let (words, growing) = self.tile_mut(plan, l, level, place);
        for state in &level.fixed {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.update)(&mut words[state.offset..state.offset + state.ops.words], &input);
            }
        }
        for (state, held) in level.growing.iter().zip(growing) {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.update)(held, &input);
            }
        }
    }

    /// Gives an event a tile of its own behind those that are not later, and drops the oldest when that is one too many.
    fn place_latest(&mut self, plan: &Plan, l: usize, level: &LevelPlan, time: i64, most: usize, inputs: &Inputs<'_>) -> Option<usize> {
        if !inputs.passes(level.filter) {
            return None;
        }
        let row = self.row(plan, l);
        let (len, mut place) = (row.len(), row.first_after(time));
        if len >= most {
            if place == 0 {
                return None;
            }
            self.drop_oldest(plan, l, level, 1);
            place -= 1;
        }
        Some(self.open(plan, l, level, place, time))
    }

    fn tile_mut(&mut self, plan: &Plan, l: usize, level: &LevelPlan, place: usize) -> (&mut [u64], &mut [Vec<u64>]) {
        let at = self.start(plan, l) + place * level.stride;
        let per = level.growing.len();
        let growing = match &mut self.side {
            Some(side) if per > 0 => &mut side.growing[l][place * per..(place + 1) * per],
            _ => &mut [],
        };
        (&mut self.words[at..at + level.stride], growing)
    }

    /// Takes an event back, if it is still there.
    pub(super) fn retract(&mut self, plan: &Plan, tiles: &[i64], bounds: &[i64], inputs: &Inputs<'_>) {
        if self.events != TILED {
            let lengths: SmallVec<[(u64, usize); 16]> = runs(&self.words).map(|run| (run[1], run.len())).collect();
            if let Some(place) = lengths.iter().position(|(offset, _)| *offset == inputs.offset) {
                let start: usize = lengths[..place].iter().map(|(_, length)| length).sum();
                self.words.drain(start..start + lengths[place].1);
            }
            return;
        }
        for (l, level) in plan.levels.iter().enumerate() {
            if tiles[l] < bounds[l] {
                continue;
            }
            let Some(place) = self.row(plan, l).find(tiles[l]) else { continue };
            self.touch(l, level, tiles[l]);
            let (words, growing) = self.tile_mut(plan, l, level, place);
            for state in &level.fixed {
                if let Some(input) = inputs.get(&state.feed) {
                    (state.ops.retract)(&mut words[state.offset..state.offset + state.ops.words], &input);
                }
            }
            for (state, held) in level.growing.iter().zip(growing) {
                if let Some(input) = inputs.get(&state.feed) {
                    (state.ops.retract)(held, &input);
                }
            }
        }
    }

    /// Forgets the kept fold of a tile's block and of all later ones.
    fn touch(&mut self, l: usize, level: &LevelPlan, tile: i64) {
        if let Some(blocks) = self.side.as_mut().and_then(|s| s.blocks[l].as_mut()) {
            blocks.touch(level, tile);
        }
    }

    fn open(&mut self, plan: &Plan, l: usize, level: &LevelPlan, place: usize, tile: i64) -> usize {
        let (stride, old) = (level.stride, self.words.len());
        let at = self.start(plan, l) + place * stride;
        if self.words.capacity() < old + stride {
            self.words.reserve_exact(stride.max(old / 4));
        }
        self.words.resize(old + stride, 0);
        if at < old {
            self.words.copy_within(at..old, at + stride);
            self.words[at..at + stride].fill(0);
        }
        self.words[at] = tile as u64;
        self.words[l..plan.levels.len()].iter_mut().for_each(|end| *end += stride as u64);
        let per = level.growing.len();
        if per > 0
            && let Some(side) = &mut self.side
        {
            let row = &mut side.growing[l];
            row.resize_with(row.len() + per, Vec::new);
            row[place * per..].rotate_right(per);
        }
        place
    }

    fn drop_oldest(&mut self, plan: &Plan, l: usize, level: &LevelPlan, tiles: usize) {
        let start = self.start(plan, l);
        let gone = tiles * level.stride;
        self.words.drain(start..start + gone);
        self.words[l..plan.levels.len()].iter_mut().for_each(|end| *end -= gone as u64);
        if let Some(side) = &mut self.side {
            side.growing[l].drain(..tiles * level.growing.len());
        }
    }

    /// Drops what has passed once it is half of all: moving the rest forward then costs a constant per tile.
    pub(super) fn prune(&mut self, plan: &Plan, bounds: &[i64], periods: &mut [Periods]) {
        if self.events == TILED {
            plan.levels.iter().zip(bounds).enumerate().for_each(|(l, (level, bound))| self.prune_lazily(plan, l, level, *bound));
            return;
        }
        let kept: usize = self.admitted_events(plan, bounds, periods).map(<[u64]>::len).sum();
        if kept * 2 <= self.words.len() {
            let kept: Vec<u64> = self.admitted_events(plan, bounds, periods).flatten().copied().collect();
            self.words = kept;
        }
    }

    fn prune_lazily(&mut self, plan: &Plan, l: usize, level: &LevelPlan, bound: i64) {
        let row = self.row(plan, l);
        if row.is_empty() || row.tile(row.len() / 2) >= bound {
            return;
        }
        let gone = row.first_at_least(bound);
        self.drop_oldest(plan, l, level, gone);
        if self.words.len() * 4 < self.words.capacity() {
            self.words.shrink_to(self.words.len() * 2);
        }
        if let Some(blocks) = self.side.as_mut().and_then(|s| s.blocks[l].take()) {
            let blocks = blocks.pruned(&self.row(plan, l), bound);
            self.side(plan.levels.len()).blocks[l] = blocks;
        }
    }

    /// Folds all blocks but the newest, which is still filling, so that [`Row::fold`] can use them.
    pub(super) fn fold_blocks(&mut self, plan: &Plan, l: usize) {
        let side = self.side(plan.levels.len());
        let blocks = side.blocks[l].take();
        let blocks = Blocks::folded(blocks, &self.row(plan, l));
        self.side(plan.levels.len()).blocks[l] = blocks;
    }

    /// An entity that keeps events.
    pub(super) fn from_events(key: EntityKey, last: EventTime, events: u8, words: Vec<u64>) -> Entity {
        Entity { key, last, words, side: None, events, tier: Tier::default() }
    }

    /// An entity with tiles, to be filled by [`Entity::push`].
    pub(super) fn with_tiles(plan: &Plan, key: EntityKey, last: EventTime) -> Entity {
        let mut entity = Entity { key, last, words: Vec::new(), side: None, events: TILED, tier: Tier::default() };
        entity.lay_out(plan);
        entity
    }

    /// Appends a tile; levels and their tiles come in order. `words` begins with the tile's number.
    pub(super) fn push(&mut self, plan: &Plan, l: usize, words: impl Iterator<Item = u64>, growing: impl Iterator<Item = Vec<u64>>) {
        self.words.extend(words);
        let end = self.words.len() as u64;
        self.words[l..plan.levels.len()].fill(end);
        if let Some(side) = &mut self.side {
            side.growing[l].extend(growing);
        }
    }

    /// Gives back room that was kept for more.
    pub(super) fn shrink(&mut self) {
        self.words.shrink_to_fit();
    }
}

/// The runs of words that begin with their own length.
fn runs(words: &[u64]) -> impl Iterator<Item = &[u64]> {
    let mut rest = words;
    std::iter::from_fn(move || {
        let length = usize::try_from(*rest.first()?).ok()?.max(1);
        let (run, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(run)
    })
}

fn read_event(plan: &Plan, run: &[u64]) -> Inputs<'static> {
    let bits = plan.shared.filters.len();
    let (passed, mut rest) = run[EVENT_HEAD..].split_at(bits.div_ceil(64));
    let mut args = SmallVec::new();
    for _ in &plan.shared.args {
        args.push(Cow::Owned(values::get(rest)));
        rest = &rest[values::len(rest)..];
    }
    Inputs {
        offset: run[1],
        time: EventTime(run[2] as i64),
        passed: (0..bits).map(|i| passed[i / 64] >> (i % 64) & 1 == 1).collect(),
        args,
    }
}

/// Whether words are kept events of this plan.
pub(super) fn are_events(plan: &Plan, words: &[u64]) -> bool {
    let fits = |run: &[u64]| {
        let Some(mut rest) = run.get(EVENT_HEAD + plan.shared.filters.len().div_ceil(64)..) else { return false };
        for _ in &plan.shared.args {
            let length = values::len(rest);
            if length == 0 || values::is_cut(rest) {
                return false;
            }
            rest = &rest[length..];
        }
        rest.is_empty()
    };
    runs(words).map(<[u64]>::len).sum::<usize>() == words.len() && runs(words).all(fits)
}
