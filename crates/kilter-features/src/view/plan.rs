//! From a definition to a plan: what to compute of an event, where its states lie, and how features are read from them.
//!
//! Windows of one hop share a level of tiles; aggregates of one kind over one expression and one filter share a state.

use std::borrow::Cow;

use kilter_core::{Calendar, DataType, EventTime, Problem, SourceId, Span, Value};

use super::call::Call;
use super::line::{self, Line};
use super::window::{self, Extent, MAX_WINDOW, Periods, Setting, Tiling, Window};
use super::{ColumnSpec, FeatureInfo, Location, View, ViewSpec};
use crate::aggregators::{Bounds, FixedOps, GrowingOps, Ops};
use crate::expr::{self, Expr, Scope, shifted};

/// Tiles per block: near the root of the number of tiles of a long window, where head, blocks and tail cost alike.
const BLOCK: i64 = 16;
/// Blocks of an exact window.
const EXACT_BLOCKS: i64 = 64;
/// Events that an entity keeps at most in the place of tiles.
const FEW_EVENTS: u8 = 16;
/// About what a growing state of one event takes in memory, in words.
const GROWING_WORDS: usize = 5;

pub(crate) struct Plan {
    pub name: String,
    pub source: SourceId,
    pub entity: Vec<String>,
    pub entity_slots: Vec<usize>,
    pub filter: Option<Expr>,
    /// Distinct filters and arguments of the columns, each evaluated once per event.
    pub shared: Shared,
    /// Those whose tiles open seldom first: what lies behind a new tile moves. A lifetime is a level of one tile.
    pub levels: Vec<LevelPlan>,
    /// An entity with fewer events than this keeps the events instead of tiles.
    pub few: u8,
    pub lateness: Span,
    /// An entity is forgotten this long after its newest event.
    pub ttl: Option<Span>,
    pub time_zone: Option<String>,
    /// The columns that name a row of the source, where its rows change.
    pub key: Option<Vec<usize>>,
    /// Slots that any expression or key reads, ascending.
    pub slots: Vec<usize>,
    /// The columns among them in the order of their names, which is the order in which a changing source's rows are kept.
    pub stored: Vec<usize>,
    /// Reads of other views that extend an event's row.
    pub lookups: Vec<LookupPlan>,
    /// The source's columns, then what lookups add.
    pub width: usize,
    pub features: Vec<FeatureInfo>,
    /// Features by the tiles they read: one group per window of a level, and one per way to read a lifetime.
    pub groups: Vec<Group>,
    /// Features that are expressions over the ones before them; their places follow those of the columns.
    pub derived: Vec<Derived>,
    /// Everything that gives a stored state its meaning, as text.
    pub identity: String,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub filters: Vec<Expr>,
    pub args: Vec<Expr>,
}

/// A read of another view at the event's time, before the event counts anywhere.
pub(crate) struct LookupPlan {
    pub view: String,
    /// Columns of the event's row that make the other view's key.
    pub key: Vec<usize>,
    pub first_slot: usize,
    pub width: usize,
    /// Whether any expression reads it.
    pub used: bool,
}

pub(crate) struct Derived {
    pub expr: Expr,
    pub default: Option<Value>,
}

/// The states that live together: in one tile of one level.
pub(crate) struct LevelPlan {
    pub tiling: Tiling,
    /// The windows read from it.
    pub extents: Vec<Extent>,
    /// Tiles whose fold is kept together; 0: none is.
    pub block: i64,
    /// With `Tiling::Events`: which events are kept.
    pub filter: Option<usize>,
    /// Where each tile has the times of its first and last event; sessions need them.
    pub bounds: Option<usize>,
    pub fixed: Vec<FixedState>,
    pub growing: Vec<GrowingState>,
    /// Words of a tile: its number, then its fixed states.
    pub stride: usize,
}

/// What makes a state: its kind, filter, arguments and, where they shape it, constants.
#[derive(Clone, PartialEq)]
struct StateKey {
    state: &'static str,
    kept: bool,
    by: bool,
    feed: Feed,
}

/// What a state is fed with.
#[derive(Clone, PartialEq)]
pub(crate) struct Feed {
    pub filter: Option<usize>,
    pub arg: Option<usize>,
    pub other: Option<usize>,
    pub constants: Box<[f64]>,
}

pub(crate) struct FixedState {
    key: StateKey,
    pub ops: FixedOps,
    pub offset: usize,
    pub feed: Feed,
}

pub(crate) struct GrowingState {
    key: StateKey,
    pub ops: GrowingOps,
    pub feed: Feed,
}

pub(crate) struct Group {
    pub level: usize,
    pub extent: Extent,
    pub outputs: Vec<Output>,
}

pub(crate) struct Output {
    pub feature: usize,
    pub place: Place,
    pub constants: Box<[f64]>,
    pub default: Option<Value>,
}

/// Where a feature's state lies within its level.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Fixed { ops: FixedOps, offset: usize },
    Growing { ops: GrowingOps, index: usize },
}

pub(super) fn compile(spec: &ViewSpec) -> Result<Plan, Vec<(Location, Problem)>> {
    let mut builder = Builder::new(spec);
    builder.entity();
    builder.key();
    builder.filter();
    builder.view_settings();
    for column in &spec.columns {
        if let Err(problems) = builder.column(column) {
            builder.problems.extend(problems.into_iter().map(|p| (Location::Column(column.name.clone()), p)));
        }
    }
    // With a column missing, what derives from it would be told as unknown.
    if builder.problems.is_empty() {
        builder.derived();
    }
    builder.finish()
}

struct Builder<'a> {
    spec: &'a ViewSpec,
    scope: Scope,
    problems: Vec<(Location, Problem)>,
    plan: Plan,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a ViewSpec) -> Builder<'a> {
        let mut scope = Scope::new();
        for field in &spec.schema.fields {
            scope.add(None, &field.name, field.data_type);
        }
        let mut lookups = Vec::new();
        for lookup in &spec.lookups {
            let features = lookup.view.features();
            let first_slot = scope.len();
            for feature in features {
                scope.add(Some(lookup.view.name()), &feature.name, feature.data_type);
            }
            lookups.push(LookupPlan {
                view: lookup.view.name().to_string(),
                key: lookup.key.clone(),
                first_slot,
                width: features.len(),
                used: false,
            });
        }
        let plan = Plan {
            name: spec.name.clone(),
            source: spec.source,
            entity: spec.entity.clone(),
            entity_slots: Vec::new(),
            filter: None,
            shared: Shared::default(),
            levels: Vec::new(),
            few: 0,
            lateness: Span(spec.lateness.0.max(0)),
            ttl: spec.ttl,
            time_zone: spec.time_zone.clone(),
            key: None,
            slots: Vec::new(),
            stored: Vec::new(),
            lookups,
            width: scope.len(),
            features: Vec::new(),
            groups: Vec::new(),
            derived: Vec::new(),
            identity: String::new(),
        };
        Builder { spec, scope, problems: Vec::new(), plan }
    }

    fn entity(&mut self) {
        if self.spec.entity.is_empty() {
            let problem = Problem::new("no_entity", "a view needs the column that names its entity");
            self.problems.push((Location::Entity(String::new()), problem));
        }
        for name in &self.spec.entity {
            let at = || Location::Entity(name.clone());
            match self.spec.schema.index(name) {
                None => self.problems.push((at(), Problem::unknown("unknown_column", "column", name, self.spec.schema.names()))),
                Some(slot) => match self.spec.schema.fields[slot].data_type {
                    t @ (DataType::Float64 | DataType::Timestamp) => self.problems.push((
                        at(),
                        Problem::new("bad_entity", format!("`{name}` is {t}; an entity is named by an int64, string or bool")),
                    )),
                    _ => self.plan.entity_slots.push(slot),
                },
            }
        }
    }

    /// The source's own key: whoever builds the specification has checked its columns.
    fn key(&mut self) {
        if !self.spec.key.is_empty() {
            self.plan.key = Some(self.spec.key.iter().filter_map(|name| self.spec.schema.index(name)).collect());
        }
    }

    fn filter(&mut self) {
        if let Some(text) = &self.spec.filter {
            match condition(text, &self.scope) {
                Ok(filter) => self.plan.filter = Some(filter),
                Err(problem) => self.problems.push((Location::Filter, problem)),
            }
        }
    }

    fn view_settings(&mut self) {
        if let Some(hop) = self.spec.hop
            && (hop < Span::SECOND || hop > MAX_WINDOW)
        {
            let problem = Problem::new("bad_hop", format!("a hop of {hop}")).hint("hops lie between 1s and the window's length");
            self.problems.push((Location::Hop, problem));
        }
        if let Some(ttl) = self.spec.ttl
            && (ttl < Span::SECOND || ttl > MAX_WINDOW)
        {
            let problem =
                Problem::new("bad_ttl", format!("a ttl of {ttl}")).hint("from 1s to 100 years (36525d); leave it out to keep entities");
            self.problems.push((Location::Ttl, problem));
        }
        if let Some(zone) = &self.spec.time_zone
            && Calendar::new(kilter_core::Unit::Day, zone).is_none()
        {
            let problem = Problem::unknown("unknown_time_zone", "time zone", zone, Calendar::zones().chain(["UTC"]));
            self.problems.push((Location::TimeZone, problem));
        }
        if self.plan.key.is_some() && !self.spec.lookups.is_empty() {
            // An old row would have to be taken back with the features it once saw.
            let problem = Problem::new("not_supported", "features of other views over a source whose rows change")
                .hint("leave the lookup out, or read both views where the model or decision is defined");
            self.problems.push((Location::Lookups, problem));
        }
    }

    fn column(&mut self, column: &ColumnSpec) -> Result<(), Vec<Problem>> {
        let line = line::parse(&column.text).map_err(|p| vec![p])?;
        let call = Call::parse(&line, &self.scope);
        let filter = match &line.filter {
            None => Ok(None),
            Some(piece) => condition(piece.text, &self.scope).map(Some).map_err(|p| shifted(p, piece.start)),
        };
        let windows = self.windows(&line);
        let (call, filter, windows) = match (call, filter, windows) {
            (Ok(call), Ok(filter), Ok(windows)) => (call, filter, windows),
            (call, filter, windows) => {
                let mut problems: Vec<Problem> = call.err().into_iter().chain(filter.err()).collect();
                problems.extend(windows.err().into_iter().flatten());
                return Err(problems);
            }
        };
        let filter = filter.map(|f| intern(&mut self.plan.shared.filters, f));
        let arg = call.arg.clone().map(|a| intern(&mut self.plan.shared.args, a));
        let other = call.other.clone().map(|a| intern(&mut self.plan.shared.args, a));
        let mut problems = Vec::new();
        for window in windows {
            let name = match window.suffix.as_str() {
                "" => column.name.clone(),
                suffix => format!("{}_{suffix}", column.name),
            };
            if let Err(problem) = self.feature(column, &line, &call, (filter, arg, other), window, name) {
                problems.push(problem);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// One window of a column.
    fn feature(
        &mut self,
        column: &ColumnSpec,
        line: &Line<'_>,
        call: &Call,
        (filter, arg, other): (Option<usize>, Option<usize>, Option<usize>),
        window: Window,
        name: String,
    ) -> Result<(), Problem> {
        if self.plan.features.iter().any(|f| f.name == name) {
            return Err(Problem::new("duplicate_feature", format!("two features of this view are named `{name}`"))
                .hint("rename the column or drop one window"));
        }
        let changing = self.plan.key.is_some();
        if changing && matches!(window.extent, Extent::Latest(_) | Extent::Session { .. }) {
            return Err(Problem::new("not_supported", format!("`{}` over a source whose rows change", window.suffix.replace('_', " ")))
                .hint("what a retracted row had pushed out is gone; use a window of a length, as in 7d exact"));
        }
        let bound = call.bind(&window, line)?;
        let default = default_value(column, bound.result)?;
        let ops = if changing { bound.ops.retractable() } else { bound.ops };
        let latest = matches!(window.extent, Extent::Latest(_));
        // Where only events that pass are kept, their states need no filter.
        let feed = Feed { filter: filter.filter(|_| !latest), arg, other, constants: Box::default() };
        let constants: Box<[f64]> = match window.extent {
            Extent::Decay(half_life) => Box::new([half_life as f64]),
            _ => call.constants.iter().chain(bound.constants).copied().collect(),
        };
        let feed = Feed { constants: if bound.shaped { constants.clone() } else { Box::default() }, ..feed };
        let key = StateKey { state: bound.state, kept: changing, by: call.by, feed: feed.clone() };
        let level = self.level(&window, filter);
        let plan = &mut self.plan.levels[level];
        if !plan.extents.contains(&window.extent) {
            plan.extents.push(window.extent);
        }
        let output = Output { feature: self.plan.features.len(), place: plan.place(key, ops, feed), constants, default: default.clone() };
        match self.plan.groups.iter_mut().find(|g| (g.level, g.extent) == (level, window.extent)) {
            Some(group) => group.outputs.push(output),
            None => self.plan.groups.push(Group { level, extent: window.extent, outputs: vec![output] }),
        }
        let error = match (window.length, window.hop) {
            (Some(length), Some(hop)) if !matches!(window.extent, Extent::Current | Extent::Previous) => hop.0 as f64 / length.0 as f64,
            _ => 0.0,
        };
        self.plan.features.push(FeatureInfo {
            name,
            data_type: bound.result,
            over: match window.suffix.as_str() {
                "" => "lifetime".into(),
                suffix => suffix.replace('_', " "),
            },
            window: Some(window.extent).filter(|e| matches!(e, Extent::Sliding(_))).and(window.length),
            hop: window.hop,
            aggregate: call.aggregate.names[0],
            class: bound.equality,
            order_sensitive: bound.order_sensitive,
            text: column.text.trim().to_string(),
            relative_tail_error: if window.hop == Some(Span(1)) { 0.0 } else { error },
            value_error: bound.error,
            default,
            rests_on: Vec::new(),
        });
        Ok(())
    }

    /// The level on which a window's tiles lie.
    fn level(&mut self, window: &Window, filter: Option<usize>) -> usize {
        let filter = filter.filter(|_| matches!(window.tiling, Tiling::Events(_)));
        let levels = &mut self.plan.levels;
        let level = levels.iter().position(|l| l.tiling == window.tiling && l.filter == filter).unwrap_or_else(|| {
            levels.push(LevelPlan::new(window.tiling.clone(), filter));
            levels.len() - 1
        });
        if matches!(window.extent, Extent::Session { .. }) && levels[level].bounds.is_none() {
            let feed = Feed { filter: None, arg: None, other: None, constants: Box::default() };
            let key = StateKey { state: "bounds", kept: false, by: false, feed: feed.clone() };
            if let Place::Fixed { offset, .. } = levels[level].place(key, Ops::fixed::<Bounds>(), feed) {
                levels[level].bounds = Some(offset);
            }
        }
        level
    }

    fn windows(&self, line: &Line<'_>) -> Result<Vec<Window>, Vec<Problem>> {
        if line.windows.is_empty() {
            return Ok(vec![Window::lifetime()]);
        }
        let setting = Setting {
            hop: line.hop.as_ref().map(|(_, hop)| *hop).or(self.spec.hop),
            hop_is_lines_own: line.hop.is_some(),
            zone: self.spec.time_zone.as_deref().unwrap_or("UTC"),
        };
        let mut windows = Vec::new();
        let mut problems = Vec::new();
        for piece in &line.windows {
            match window::parse(piece, &setting) {
                Ok(window) => windows.push(window),
                Err(problem) => problems.push(problem.at(piece.range())),
            }
        }
        if problems.is_empty() { Ok(windows) } else { Err(problems) }
    }

    /// Each may name the features of the columns and those derived before it.
    fn derived(&mut self) {
        let mut scope = Scope::new();
        for feature in &self.plan.features {
            scope.add(None, &feature.name, feature.data_type);
        }
        for column in &self.spec.derived {
            let derive = || -> Result<(Expr, DataType, Option<Value>), Problem> {
                if self.plan.features.iter().any(|f| f.name == column.name) {
                    let problem = Problem::new("duplicate_feature", format!("two features of this view are named `{}`", column.name));
                    return Err(problem.hint("give one of them another name"));
                }
                let expr = expr::compile(&column.text, &scope)?;
                let Some(data_type) = expr.data_type() else {
                    return Err(Problem::new("type_mismatch", format!("`{}` is always null", column.text.trim())).at(0..column.text.len()));
                };
                let default = default_value(column, data_type)?;
                Ok((expr, data_type, default))
            };
            match derive() {
                Err(problem) => self.problems.push((Location::Derived(column.name.clone()), problem)),
                Ok((expr, data_type, default)) => {
                    let from: Vec<&FeatureInfo> = expr.slots().iter().map(|s| &self.plan.features[*s]).collect();
                    let told =
                        |f: &&FeatureInfo| format!("{}: {} over {} {:?} {:?} {:?}", f.name, f.text, f.over, f.hop, f.default, f.rests_on);
                    let rests_on = from.iter().map(told).collect();
                    let exact = from.iter().all(|f| f.class == crate::Equality::Bitwise);
                    let info = FeatureInfo {
                        name: column.name.clone(),
                        data_type,
                        over: String::new(),
                        window: None,
                        hop: None,
                        aggregate: "expression",
                        class: if exact { crate::Equality::Bitwise } else { crate::Equality::Tolerance(1e-9) },
                        order_sensitive: from.iter().any(|f| f.order_sensitive),
                        text: column.text.trim().to_string(),
                        relative_tail_error: from.iter().map(|f| f.relative_tail_error).fold(0.0, f64::max),
                        value_error: from.iter().map(|f| f.value_error).fold(0.0, f64::max),
                        default: default.clone(),
                        rests_on,
                    };
                    scope.add(None, &column.name, data_type);
                    self.plan.features.push(info);
                    self.plan.derived.push(Derived { expr, default });
                }
            }
        }
    }

    fn finish(mut self) -> Result<Plan, Vec<(Location, Problem)>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let plan = &mut self.plan;
        let exprs = plan.filter.iter().chain(&plan.shared.filters).chain(&plan.shared.args);
        plan.slots = exprs.flat_map(|e| e.slots().iter().copied()).chain(plan.entity_slots.iter().copied()).collect();
        for lookup in &mut plan.lookups {
            let slots = lookup.first_slot..lookup.first_slot + lookup.width;
            lookup.used = plan.slots.iter().any(|s| slots.contains(s));
            if lookup.used {
                plan.slots.extend(&lookup.key);
            }
        }
        plan.slots.extend(plan.key.iter().flatten());
        plan.slots.sort_unstable();
        plan.slots.dedup();
        plan.stored = plan.slots.iter().copied().filter(|s| *s < self.spec.schema.len()).collect();
        plan.stored.sort_by_key(|s| &self.spec.schema.fields[*s].name);
        for level in &mut plan.levels {
            level.set_block();
        }
        plan.order_levels();
        plan.few = plan.few();
        self.plan.identity = self.identity();
        Ok(self.plan)
    }

    fn identity(&self) -> String {
        let (spec, plan) = (self.spec, &self.plan);
        let mut text = format!("{:?} source {} entity {:?} lateness {}\n", spec.name, spec.source.0, spec.entity, plan.lateness.0);
        let mut types: Vec<String> =
            plan.slots.iter().filter_map(|s| spec.schema.fields.get(*s)).map(|f| format!("{:?}: {}", f.name, f.data_type)).collect();
        types.sort();
        text.push_str(&format!("{types:?} filter {:?}\n", plan.filter.as_ref().map(Expr::text)));
        if plan.ttl.is_some() || !spec.key.is_empty() || spec.time_zone.is_some() {
            text.push_str(&format!("ttl {:?} key {:?} zone {:?}\n", plan.ttl, spec.key, spec.time_zone));
        }
        for (lookup, from) in plan.lookups.iter().zip(&spec.lookups).filter(|(l, _)| l.used) {
            let key: Vec<&str> = lookup.key.iter().filter_map(|s| spec.schema.names().nth(*s)).collect();
            text.push_str(&format!("lookup {:?} {key:?} {}\n", lookup.view, from.view.plan.identity_but_source()));
        }
        for f in &plan.features {
            text.push_str(&format!("{:?} {:?} {} {:?}\n", f.name, f.text, f.over, f.hop));
        }
        text
    }
}

impl Plan {
    /// [`Plan::identity`] whatever number the source has.
    pub(crate) fn identity_but_source(&self) -> String {
        self.identity.replacen(&format!(" source {} ", self.source.0), " ", 1)
    }

    fn order_levels(&mut self) {
        let mut order: Vec<usize> = (0..self.levels.len()).collect();
        order.sort_by_key(|l| std::cmp::Reverse(self.levels[*l].tiling.length()));
        let places: Vec<usize> = (0..order.len()).filter_map(|l| order.iter().position(|o| *o == l)).collect();
        let mut levels: Vec<Option<LevelPlan>> = std::mem::take(&mut self.levels).into_iter().map(Some).collect();
        self.levels = order.iter().filter_map(|l| levels[*l].take()).collect();
        self.groups.iter_mut().for_each(|group| group.level = places[group.level]);
    }

    /// Events are worth keeping while they take less room than tiles would, were each in tiles of its own.
    fn few(&self) -> u8 {
        let event = 3 + self.shared.filters.len().div_ceil(64) + 2 * self.shared.args.len();
        let tiles: usize = self.levels.iter().map(|l| l.stride + l.growing.len() * GROWING_WORDS).sum();
        if event < tiles { FEW_EVENTS } else { 0 }
    }
}

impl LevelPlan {
    fn new(tiling: Tiling, filter: Option<usize>) -> LevelPlan {
        LevelPlan { tiling, extents: Vec::new(), block: BLOCK, filter, bounds: None, fixed: Vec::new(), growing: Vec::new(), stride: 1 }
    }

    fn set_block(&mut self) {
        let longest = self.extents.iter().map(|e| if let Extent::Sliding(length) = e { *length } else { 0 }).max().unwrap_or(0);
        self.block = match self.tiling {
            Tiling::Even(1) => (longest / EXACT_BLOCKS).max(1),
            Tiling::Events(_) => 0,
            _ => BLOCK,
        };
    }

    fn place(&mut self, key: StateKey, ops: Ops, feed: Feed) -> Place {
        match ops {
            Ops::Fixed(ops) => {
                let offset = self.fixed.iter().find(|s| s.key == key).map(|s| s.offset).unwrap_or_else(|| {
                    let offset = self.stride;
                    self.stride += ops.words;
                    self.fixed.push(FixedState { key, ops, offset, feed });
                    offset
                });
                Place::Fixed { ops, offset }
            }
            Ops::Growing(ops) => {
                let index = self.growing.iter().position(|s| s.key == key).unwrap_or_else(|| {
                    self.growing.push(GrowingState { key, ops, feed });
                    self.growing.len() - 1
                });
                Place::Growing { ops, index }
            }
        }
    }

    /// How many events are kept, where each has a tile of its own.
    pub(crate) fn latest(&self) -> Option<usize> {
        match self.tiling {
            Tiling::Events(n) => Some(n),
            _ => None,
        }
    }

    /// The oldest tile that the watermark still admits to any of its windows.
    pub(crate) fn bound(&self, watermark: EventTime, lateness: Span, periods: &mut Periods) -> i64 {
        let at = watermark - lateness;
        self.extents.iter().map(|extent| self.tiling.tiles(*extent, at, periods).0).min().unwrap_or(i64::MIN)
    }
}

impl LevelPlan {
    /// The first watermark after this one at which [`LevelPlan::bound`] may be another.
    pub(crate) fn next_bound(&self, watermark: EventTime, lateness: Span) -> i64 {
        let at = watermark - lateness;
        let next = self.extents.iter().map(|extent| self.tiling.next_change(*extent, at).0).min().unwrap_or(i64::MAX);
        next.saturating_add(lateness.0)
    }
}

impl PartialEq for View {
    fn eq(&self, other: &View) -> bool {
        self.plan.identity == other.plan.identity
    }
}

pub(super) fn condition(text: &str, scope: &Scope) -> Result<Expr, Problem> {
    let expr = expr::compile(text, scope)?;
    match expr.data_type() {
        None | Some(DataType::Bool) => Ok(expr),
        Some(t) => Err(Problem::new("type_mismatch", format!("`{}` is {t}; a condition is needed here", text.trim()))
            .hint("compare it with something, as in `amount > 0`")
            .at(0..text.len())),
    }
}

fn intern(exprs: &mut Vec<Expr>, expr: Expr) -> usize {
    exprs.iter().position(|e| e.text() == expr.text()).unwrap_or_else(|| {
        exprs.push(expr);
        exprs.len() - 1
    })
}

fn default_value(column: &ColumnSpec, result: DataType) -> Result<Option<Value>, Problem> {
    let widened = match (&column.default, result) {
        (Some(Value::Int(i)), DataType::Float64) => Some(Cow::Owned(Value::Float(*i as f64))),
        (other, _) => other.as_ref().map(Cow::Borrowed),
    };
    match widened.map(Cow::into_owned) {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.fits(result) => Ok(Some(value)),
        Some(value) => Err(Problem::new(
            "bad_default",
            format!("default {value} is {}; the feature is {}", value.data_type().map_or("null", DataType::name), result),
        )),
    }
}
