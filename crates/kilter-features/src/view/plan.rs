//! From a definition to a plan: what to compute of an event, where its states lie, and how features are read from them.
//!
//! Windows of one hop share a level of tiles; aggregates of one kind over one expression and one filter share a state.

use std::borrow::Cow;

use kilter_core::{DataType, Problem, SourceId, Span, Value};

use super::line::{self, Line, Piece};
use super::{ColumnSpec, FeatureInfo, Location, ViewSpec};
use crate::aggregators::{self, Bound, FixedOps, GrowingOps, Ops, Takes};
use crate::expr::{self, Expr, Scope, shifted};

/// A window may span at most this many tiles.
const MAX_TILES: i64 = 10_000;
/// Windows and hops beyond this length are a mistake of units.
const MAX_WINDOW: Span = Span(36_525 * Span::DAY.0);

pub(crate) struct Plan {
    pub name: String,
    pub source: SourceId,
    pub entity: Vec<String>,
    pub entity_slots: Vec<usize>,
    pub filter: Option<Expr>,
    /// Distinct filters and arguments of the columns, each evaluated once per event.
    pub shared: Shared,
    pub levels: Vec<LevelPlan>,
    /// States of lifetime features; its hop and windows mean nothing.
    pub lifetime: LevelPlan,
    pub lateness: Span,
    pub features: Vec<FeatureInfo>,
    /// Features by the tiles they read: one group per window of a level, and one for lifetime.
    pub groups: Vec<Group>,
    /// Everything that gives a stored state its meaning, as text.
    pub identity: String,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub filters: Vec<Expr>,
    pub args: Vec<Expr>,
}

/// The states that live together: in one tile of one hop, or over a lifetime.
#[derive(Default)]
pub(crate) struct LevelPlan {
    pub hop: i64,
    /// The longest window on this level: older tiles are gone.
    pub longest: i64,
    pub fixed: Vec<FixedState>,
    pub growing: Vec<GrowingState>,
    /// Words of all fixed states of a tile.
    pub stride: usize,
}

pub(crate) struct FixedState {
    key: StateKey,
    pub ops: FixedOps,
    pub offset: usize,
    pub filter: Option<usize>,
    pub arg: Option<usize>,
}

pub(crate) struct GrowingState {
    key: StateKey,
    pub ops: GrowingOps,
    pub filter: Option<usize>,
    pub arg: Option<usize>,
}

type StateKey = (&'static str, Option<usize>, Option<usize>);

pub(crate) struct Group {
    /// Level and window length; none: lifetime.
    pub window: Option<(usize, i64)>,
    pub outputs: Vec<Output>,
}

pub(crate) struct Output {
    pub feature: usize,
    pub place: Place,
    pub fraction: f64,
    pub default: Option<Value>,
}

/// Where a feature's state lies within its level.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Fixed { ops: FixedOps, offset: usize },
    Growing { ops: GrowingOps, index: usize },
}

/// The largest step not above a sixtieth of the window, at least a second.
pub(crate) fn default_hop(window: Span) -> Span {
    let steps = [Span::DAY, Span(6 * Span::HOUR.0), Span::HOUR, Span(5 * Span::MINUTE.0), Span::MINUTE, Span(10 * Span::SECOND.0)];
    steps.into_iter().find(|step| step.0 <= window.0 / 60).unwrap_or(Span::SECOND)
}

pub(super) fn compile(spec: &ViewSpec) -> Result<Plan, Vec<(Location, Problem)>> {
    let mut builder = Builder::new(spec);
    builder.entity();
    builder.filter();
    builder.view_hop();
    for column in &spec.columns {
        builder.column(column);
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
        let plan = Plan {
            name: spec.name.clone(),
            source: spec.source,
            entity: spec.entity.clone(),
            entity_slots: Vec::new(),
            filter: None,
            shared: Shared::default(),
            levels: Vec::new(),
            lifetime: LevelPlan::default(),
            lateness: Span(spec.lateness.0.max(0)),
            features: Vec::new(),
            groups: Vec::new(),
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
                    t if t.is_nested() || matches!(t, DataType::Float64 | DataType::Timestamp) => self.problems.push((
                        at(),
                        Problem::new("bad_entity", format!("`{name}` is {t}; an entity is named by an int64, string or bool")),
                    )),
                    _ => self.plan.entity_slots.push(slot),
                },
            }
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

    fn view_hop(&mut self) {
        if let Some(hop) = self.spec.hop
            && (hop < Span::SECOND || hop > MAX_WINDOW)
        {
            let problem = Problem::new("bad_hop", format!("a hop of {hop}")).hint("hops lie between 1s and the window's length");
            self.problems.push((Location::Hop, problem));
        }
    }

    fn column(&mut self, column: &ColumnSpec) {
        if let Err(problems) = self.try_column(column) {
            self.problems.extend(problems.into_iter().map(|p| (Location::Column(column.name.clone()), p)));
        }
    }

    fn try_column(&mut self, column: &ColumnSpec) -> Result<(), Vec<Problem>> {
        let line = line::parse(&column.text).map_err(|p| vec![p])?;
        let mut problems = Vec::new();
        let mut keep = |result: Result<(), Problem>| problems.extend(result.err());

        let call = self.call(&line);
        let filter = match &line.filter {
            None => Ok(None),
            Some(piece) => condition(piece.text, &self.scope).map(Some).map_err(|p| shifted(p, piece.start)),
        };
        let windows = self.windows(&line);
        let Ok((call, filter, windows)) = (match (call, filter, windows) {
            (Ok(call), Ok(filter), Ok(windows)) => Ok((call, filter, windows)),
            (call, filter, windows) => {
                keep(call.map(drop));
                keep(filter.map(drop));
                problems.extend(windows.err().into_iter().flatten());
                Err(())
            }
        }) else {
            return Err(problems);
        };

        let default = match default_value(column, &call.bound) {
            Ok(default) => default,
            Err(problem) => return Err(vec![problem]),
        };
        let filter = filter.map(|f| intern(&mut self.plan.shared.filters, f));
        let arg = call.arg.map(|a| intern(&mut self.plan.shared.args, a));
        for window in windows {
            let name = match &window {
                Some(window) => format!("{}_{}", column.name, window.text),
                None => column.name.clone(),
            };
            if self.plan.features.iter().any(|f| f.name == name) {
                problems.push(
                    Problem::new("duplicate_feature", format!("two features of this view are named `{name}`"))
                        .hint("rename the column or drop one window"),
                );
                continue;
            }
            let place = match &window {
                Some(Window { span, hop, .. }) => {
                    let levels = &mut self.plan.levels;
                    let level = levels.iter().position(|l| l.hop == hop.0).unwrap_or_else(|| {
                        levels.push(LevelPlan { hop: hop.0, ..LevelPlan::default() });
                        levels.len() - 1
                    });
                    levels[level].longest = levels[level].longest.max(span.0);
                    Some((level, span.0))
                }
                None => None,
            };
            let level = match place {
                Some((level, _)) => &mut self.plan.levels[level],
                None => &mut self.plan.lifetime,
            };
            let output = Output {
                feature: self.plan.features.len(),
                place: level.place(&call.bound, filter, arg),
                fraction: call.fraction,
                default: default.clone(),
            };
            match self.plan.groups.iter_mut().find(|g| g.window == place) {
                Some(group) => group.outputs.push(output),
                None => self.plan.groups.push(Group { window: place, outputs: vec![output] }),
            }
            self.plan.features.push(FeatureInfo {
                name,
                data_type: call.bound.result,
                window: window.as_ref().map(|w| w.span),
                hop: window.as_ref().map(|w| w.hop),
                aggregate: call.aggregate,
                class: call.bound.equality,
                order_sensitive: call.bound.order_sensitive,
                text: column.text.trim().to_string(),
                relative_tail_error: window.map_or(0.0, |w| w.hop.0 as f64 / w.span.0 as f64),
                value_error: call.bound.error,
                default: default.clone(),
            });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn call(&self, line: &Line<'_>) -> Result<Call, Problem> {
        let written = &line.aggregate;
        let name = written.text.to_lowercase();
        let Some(aggregator) = aggregators::find(&name) else {
            let problem = match expr::functions::names().any(|f| f == name) {
                true => Problem::new("not_an_aggregate", format!("`{}` is a function of one row, not an aggregate", written.text))
                    .hint(format!("put it inside one, as in sum({}(x)); aggregates: {}", name, kilter_core::list(aggregators::names()))),
                false => Problem::unknown("unknown_aggregate", "aggregate", written.text, aggregators::names()),
            };
            return Err(problem.at(written.range()));
        };
        let whole = written.start..line.args.last().map_or(written.range().end, |a| a.range().end);
        if let Some(first) = line.args.first()
            && first.text.get(..9).is_some_and(|w| w.eq_ignore_ascii_case("distinct "))
        {
            let problem = Problem::new("not_supported", "DISTINCT inside an aggregate").hint("approx_distinct(x) counts different values");
            return Err(problem.at(first.range()));
        }
        let takes = |needs: &str| {
            let problem = Problem::new("argument_count", format!("{name} takes {needs}, not {} arguments", line.args.len()));
            problem.at(whole.clone())
        };
        let (arg, fraction) = match (aggregator.takes, line.args.as_slice()) {
            (Takes::StarOrValue, [star]) if star.text == "*" => (None, None),
            (Takes::Nothing, []) => (None, None),
            (Takes::StarOrValue | Takes::Value, [arg]) => (Some(arg), None),
            (Takes::ValueAndFraction, [arg, fraction]) => (Some(arg), Some(fraction)),
            (Takes::StarOrValue, _) => return Err(takes("* or one argument")),
            (Takes::Nothing, _) => return Err(takes("nothing between its parentheses")),
            (Takes::Value, _) => return Err(takes("one argument")),
            (Takes::ValueAndFraction, _) => return Err(takes("a value and a fraction, as in quantile(amount, 0.95)")),
        };
        let compiled = match arg {
            Some(piece) => Some((piece, expr::compile(piece.text, &self.scope).map_err(|p| shifted(p, piece.start))?)),
            None => None,
        };
        if let Some((piece, expr)) = &compiled
            && expr.data_type().is_none()
        {
            return Err(Problem::new("type_mismatch", format!("`{}` is always null", piece.text)).at(piece.range()));
        }
        let data_type = compiled.as_ref().and_then(|(_, e)| e.data_type());
        let bound = (aggregator.bind)(data_type).map_err(|needs| {
            let piece = arg.unwrap_or(written);
            let is = data_type.map_or("nothing", DataType::name);
            let problem = Problem::new("type_mismatch", format!("`{}` is {is}; {name} needs {needs}", piece.text)).at(piece.range());
            match data_type {
                Some(DataType::Bool) => problem.hint(format!("count the rows where it holds: count(*) where {}", piece.text)),
                Some(DataType::String) => problem.hint("cast it (x::float64), or count its values with approx_distinct(x)"),
                _ => problem,
            }
        })?;
        let fraction = match fraction {
            None => 0.0,
            Some(piece) => {
                let value = expr::compile(piece.text, &self.scope).map_err(|p| shifted(p, piece.start))?;
                match value.as_constant().and_then(Value::as_f64) {
                    Some(p) if (0.0..=1.0).contains(&p) => p,
                    _ => {
                        return Err(Problem::new("bad_literal", format!("`{}` is not a number between 0 and 1", piece.text))
                            .hint("the median is quantile(x, 0.5)")
                            .at(piece.range()));
                    }
                }
            }
        };
        Ok(Call { aggregate: aggregator.names[0], bound, arg: compiled.map(|(_, e)| e), fraction })
    }

    /// Each window as written, with its length and hop; one `None` stands for lifetime.
    fn windows<'t>(&self, line: &Line<'t>) -> Result<Vec<Option<Window<'t>>>, Vec<Problem>> {
        if line.windows.is_empty() {
            return Ok(vec![None]);
        }
        let mut windows = Vec::new();
        let mut problems = Vec::new();
        for piece in &line.windows {
            match self.window(piece, line) {
                Ok(window) => windows.push(window),
                Err(problem) => problems.push(problem.at(piece.range())),
            }
        }
        if problems.is_empty() { Ok(windows) } else { Err(problems) }
    }

    fn window<'t>(&self, piece: &Piece<'t>, line: &Line<'t>) -> Result<Option<Window<'t>>, Problem> {
        if piece.text.eq_ignore_ascii_case("lifetime") {
            return Ok(None);
        }
        let span = Span::parse(piece.text).ok_or_else(|| line::not_a_span(piece))?;
        if span < Span::SECOND || span > MAX_WINDOW {
            return Err(Problem::new("bad_window", format!("a window of {span}")).hint("windows lie between 1s and 100 years (36525d)"));
        }
        let hop = match (&line.hop, self.spec.hop) {
            (Some((_, hop)), _) => *hop,
            (None, Some(hop)) if (Span::SECOND..=MAX_WINDOW).contains(&hop) => hop.min(span),
            _ => default_hop(span),
        };
        if hop < Span::SECOND || hop > span {
            return Err(Problem::new("bad_hop", format!("a hop of {hop} for a window of {span}"))
                .hint("hops lie between 1s and the window's length"));
        }
        if span.0 / hop.0 > MAX_TILES {
            return Err(Problem::new("too_many_tiles", format!("a window of {span} with a hop of {hop} has {} tiles", span.0 / hop.0))
                .hint(format!("the limit is {MAX_TILES}; without a hop it would be {}", default_hop(span))));
        }
        Ok(Some(Window { text: piece.text, span, hop }))
    }

    fn finish(mut self) -> Result<Plan, Vec<(Location, Problem)>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        self.plan.identity = self.identity();
        Ok(self.plan)
    }

    fn identity(&self) -> String {
        let spec = self.spec;
        let mut text = format!("{:?} source {} entity {:?} lateness {}\n", spec.name, spec.source.0, spec.entity, self.plan.lateness.0);
        let plan = &self.plan;
        let exprs = plan.filter.iter().chain(&plan.shared.filters).chain(&plan.shared.args);
        let mut slots: Vec<usize> = exprs.flat_map(|e| e.slots().iter().copied()).chain(plan.entity_slots.iter().copied()).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut types: Vec<String> =
            slots.iter().map(|s| &spec.schema.fields[*s]).map(|f| format!("{:?}: {}", f.name, f.data_type)).collect();
        types.sort();
        text.push_str(&format!("{types:?} filter {:?}\n", plan.filter.as_ref().map(Expr::text)));
        for f in &plan.features {
            text.push_str(&format!("{:?} {:?} {:?} {:?}\n", f.name, f.text, f.window, f.hop));
        }
        text
    }
}

/// A window of a line: as written, its length, its tiles' length.
struct Window<'t> {
    text: &'t str,
    span: Span,
    hop: Span,
}

struct Call {
    aggregate: &'static str,
    bound: Bound,
    arg: Option<Expr>,
    fraction: f64,
}

impl LevelPlan {
    fn place(&mut self, bound: &Bound, filter: Option<usize>, arg: Option<usize>) -> Place {
        let key = (bound.state, filter, arg);
        match bound.ops {
            Ops::Fixed(ops) => {
                let offset = self.fixed.iter().find(|s| s.key == key).map(|s| s.offset).unwrap_or_else(|| {
                    let offset = self.stride;
                    self.stride += ops.words;
                    self.fixed.push(FixedState { key, ops, offset, filter, arg });
                    offset
                });
                Place::Fixed { ops, offset }
            }
            Ops::Growing(ops) => {
                let index = self.growing.iter().position(|s| s.key == key).unwrap_or_else(|| {
                    self.growing.push(GrowingState { key, ops, filter, arg });
                    self.growing.len() - 1
                });
                Place::Growing { ops, index }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.growing.is_empty()
    }
}

fn condition(text: &str, scope: &Scope) -> Result<Expr, Problem> {
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

fn default_value(column: &ColumnSpec, bound: &Bound) -> Result<Option<Value>, Problem> {
    let widened = match (&column.default, bound.result) {
        (Some(Value::Int(i)), DataType::Float64) => Some(Cow::Owned(Value::Float(*i as f64))),
        (other, _) => other.as_ref().map(Cow::Borrowed),
    };
    match widened.map(Cow::into_owned) {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.fits(bound.result) => Ok(Some(value)),
        Some(value) => Err(Problem::new(
            "bad_default",
            format!("default {value} is {}; the feature is {}", value.data_type().map_or("null", DataType::name), bound.result),
        )),
    }
}
