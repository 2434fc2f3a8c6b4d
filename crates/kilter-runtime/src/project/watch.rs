//! Monitors of the machinery itself: a source that falls silent, features that are not what the log says. They stand under `[monitor.NAME]`
//! beside those of models, told apart by `kind`; they run on the machine's clock, beside the stream, and change no result.

use kilter_core::{Problem, SourceId, Span};
use kilter_pipeline::Plan;
use schemars::JsonSchema;
use serde::Serialize;

use super::definitions::{MonitorDef, Named, SpanText, optional_span, span};
use super::document::{At, Document};
use super::reader::Reader;

/// A monitor of a model, or one of the machinery.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AnyMonitor {
    Model(MonitorDef),
    Watch(WatchDef),
}

/// A monitor of the machinery, told by its `kind`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WatchDef {
    Silence(SilenceDef),
    SelfCheck(SelfCheckDef),
}

/// Alerts when nothing has come from a source for a while.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SilenceDef {
    /// The source watched.
    pub source: String,
    /// Alert when no event has come for this long; left out: the source's `idle_after`.
    #[serde(serialize_with = "optional_span")]
    #[schemars(with = "Option<SpanText>")]
    pub after: Option<Span>,
    /// While it lasts, the next alert comes this much later.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "rest")]
    pub rest: Span,
}

/// Compares the features of sampled entities with what the log says they are.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SelfCheckDef {
    /// The part of the entities that is followed.
    #[schemars(default = "sample")]
    pub sample: f64,
    /// How often they are compared.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "every")]
    pub every: Span,
    /// Alert when a larger part of the entities compared differs.
    #[schemars(default = "above")]
    pub above: f64,
    /// While it lasts, the next alert comes this much later.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "rest")]
    pub rest: Span,
}

fn rest() -> Span {
    Span::DAY
}

fn sample() -> f64 {
    0.01
}

fn every() -> Span {
    Span::HOUR
}

fn above() -> f64 {
    0.0
}

/// A monitor of the machinery, its names looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchPlan {
    pub name: String,
    pub rest: Span,
    pub kind: WatchKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WatchKind {
    Silence { source: SourceId, after: Span },
    SelfCheck { sample: f64, every: Span, above: f64 },
}

impl WatchKind {
    pub fn name(&self) -> &'static str {
        match self {
            WatchKind::Silence { .. } => "silence",
            WatchKind::SelfCheck { .. } => "self-check",
        }
    }
}

/// Reads a section under `monitor`.
pub(super) fn read(mut t: Reader<'_>, model: impl FnOnce(Reader<'_>) -> Option<MonitorDef>) -> Option<AnyMonitor> {
    if !t.has("kind") {
        return model(t).map(AnyMonitor::Model);
    }
    let kind = t.text("kind")?;
    let watch = match kind.as_str() {
        "silence" => {
            t.require("source", "the source to watch: `source = \"payments\"`");
            let source = t.text("source");
            let (after, rest) = (t.span("after"), t.span("rest").unwrap_or_else(rest));
            source.map(|source| WatchDef::Silence(SilenceDef { source, after, rest }))
        }
        "self-check" => Some(WatchDef::SelfCheck(SelfCheckDef {
            sample: t.number("sample", 0.000001, 1.0).unwrap_or_else(sample),
            every: t.span("every").unwrap_or_else(every),
            above: t.number("above", 0.0, 1.0).unwrap_or_else(above),
            rest: t.span("rest").unwrap_or_else(rest),
        })),
        other => {
            let problem = Problem::unknown("unknown_word", "kind of monitor", other, ["silence", "self-check"]);
            t.wrong("kind", problem);
            return None;
        }
    };
    t.finish();
    watch.map(AnyMonitor::Watch)
}

/// The two kinds apart, each in the order of the file.
pub(super) fn apart(all: Named<AnyMonitor>) -> (Named<MonitorDef>, Named<WatchDef>) {
    let (mut monitors, mut watches) = (Vec::new(), Vec::new());
    for (name, monitor) in all.0 {
        match monitor {
            AnyMonitor::Model(def) => monitors.push((name, def)),
            AnyMonitor::Watch(def) => watches.push((name, def)),
        }
    }
    (Named(monitors), Named(watches))
}

/// Looks the names up.
pub(super) fn resolve(document: &Document<'_>, watches: &Named<WatchDef>, plan: &Plan, idle_after: &[Option<Span>]) -> Vec<WatchPlan> {
    let resolve = |(name, def): (&str, &WatchDef)| {
        let path = format!("monitor.{name}");
        let (rest, kind) = match def {
            WatchDef::SelfCheck(def) => {
                if plan.views.is_empty() {
                    let problem = Problem::new("no_views", format!("monitor \"{name}\" has nothing to check: there is no feature view"));
                    document.error(At::Key(&path), problem.hint("leave it out, or define a view: [features.NAME]"));
                    return None;
                }
                (def.rest, WatchKind::SelfCheck { sample: def.sample, every: def.every, above: def.above })
            }
            WatchDef::Silence(def) => {
                let Some(source) = plan.source(&def.source) else {
                    let names = plan.sources.iter().map(|s| s.name.as_str());
                    let mut problem = Problem::unknown("unknown_source", "source", &def.source, names);
                    problem.message = format!("monitor \"{name}\": {}", problem.message);
                    document.error(At::Value(&format!("{path}.source")), problem);
                    return None;
                };
                let Some(after) = def.after.or(idle_after[usize::from(source.0)]) else {
                    let problem =
                        Problem::new("missing", format!("monitor \"{name}\" needs `after`: source \"{}\" is never idle", def.source));
                    document.error(At::Key(&path), problem.hint("`after = \"15m\"`"));
                    return None;
                };
                (def.rest, WatchKind::Silence { source, after })
            }
        };
        Some(WatchPlan { name: name.to_owned(), rest, kind })
    };
    watches.iter().filter_map(resolve).collect()
}
