//! Windows: what a line asks for after `over`, and how each kind finds its tiles.

use kilter_core::{Calendar, EventTime, Period, Problem, Span, Unit};

use super::line::{Piece, not_a_span};

/// A window may span at most this many tiles.
const MAX_TILES: i64 = 10_000;
/// Windows and hops beyond this length are a mistake of units.
pub(super) const MAX_WINDOW: Span = Span(36_525 * Span::DAY.0);
/// The most events that `last n` keeps for an entity.
const MAX_LATEST: usize = 10_000;
/// How long a session may last unless the line says otherwise.
const SESSION_MAX: Span = Span::DAY;
/// The tile of an exact window: an instant.
const INSTANT: i64 = 1;

/// What part of an entity's events a window takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Lifetime,
    /// All events, with a half-life.
    Decay(i64),
    /// The newest n.
    Latest(usize),
    /// This much time.
    Sliding(i64),
    /// Back to the first gap longer than `gap`, at most `max`.
    Session {
        gap: i64,
        max: i64,
    },
    /// The period that holds the moment of reading, or the one before it.
    Current,
    Previous,
}

/// How a level cuts time into tiles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tiling {
    /// Tiles of this length, aligned to 1970-01-01T00:00:00Z.
    Even(i64),
    /// Tiles of this length from the start of each period on; `per` numbers belong to each.
    Calendar { calendar: Calendar, hop: i64, per: i64 },
    /// A tile for each event: the newest n are kept.
    Events(usize),
    /// One tile for all time.
    Whole,
}

/// The periods looked at last: most times asked about lie in one of two.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Periods {
    held: [Option<Period>; 2],
    older: usize,
}

impl Periods {
    fn of(&mut self, calendar: &Calendar, t: EventTime) -> Period {
        if let Some(place) = self.held.iter().position(|p| p.is_some_and(|p| p.holds(t)))
            && let Some(period) = self.held[place]
        {
            self.older = 1 - place;
            return period;
        }
        let period = calendar.period(t);
        self.held[self.older] = Some(period);
        self.older = 1 - self.older;
        period
    }
}

impl Tiling {
    /// How much time a tile covers.
    pub(crate) fn length(&self) -> i64 {
        match self {
            Tiling::Whole => i64::MAX,
            Tiling::Even(hop) | Tiling::Calendar { hop, .. } => *hop,
            Tiling::Events(_) => 0,
        }
    }

    /// The first moment after `t` at which another tile may be the oldest of a window.
    pub(crate) fn next_change(&self, extent: Extent, t: EventTime) -> EventTime {
        match (extent, self) {
            (Extent::Sliding(length) | Extent::Session { max: length, .. }, Tiling::Even(hop)) => {
                let start = t.0.saturating_sub(length);
                EventTime(t.0.saturating_add(hop - start.rem_euclid(*hop)))
            }
            (_, Tiling::Whole | Tiling::Events(_)) => EventTime(i64::MAX),
            _ => EventTime(t.0.saturating_add(1)),
        }
    }

    /// The tile that holds `t`.
    pub(crate) fn tile(&self, t: EventTime, periods: &mut Periods) -> i64 {
        match self {
            Tiling::Even(hop) => t.0.div_euclid(*hop),
            Tiling::Calendar { calendar, hop, per } => {
                let period = periods.of(calendar, t);
                period.number * per + (t.0 - period.start.0) / hop
            }
            Tiling::Events(_) => t.0,
            Tiling::Whole => 0,
        }
    }

    /// The first and last tile of a window read at `t`, without regard to the watermark.
    pub(crate) fn tiles(&self, extent: Extent, t: EventTime, periods: &mut Periods) -> (i64, i64) {
        match (extent, self) {
            (Extent::Sliding(length) | Extent::Session { max: length, .. }, _) => {
                let first = self.tile(EventTime(t.0.saturating_sub(length)), periods);
                (first, self.tile(t, periods))
            }
            (Extent::Current, Tiling::Calendar { calendar, per, .. }) => {
                let first = periods.of(calendar, t).number * per;
                (first, self.tile(t, periods))
            }
            (Extent::Previous, Tiling::Calendar { calendar, per, .. }) => {
                let before = previous(calendar, t, periods);
                (before.number * per, before.number * per + per - 1)
            }
            (Extent::Latest(_), _) => (i64::MIN, t.0),
            _ => (0, 0),
        }
    }

    /// The moment of reading from which an event of time `t` is in no window any more, or a later one.
    pub(crate) fn passed(&self, extent: Extent, t: EventTime, periods: &mut Periods) -> i64 {
        match (extent, self) {
            (Extent::Sliding(length) | Extent::Session { max: length, .. }, Tiling::Even(hop)) => {
                (t.0.div_euclid(*hop) + 1).saturating_mul(*hop).saturating_add(length)
            }
            (Extent::Current, Tiling::Calendar { calendar, .. }) => periods.of(calendar, t).end.0,
            (Extent::Previous, Tiling::Calendar { calendar, .. }) => {
                let end = periods.of(calendar, t).end;
                periods.of(calendar, end).end.0
            }
            _ => i64::MAX,
        }
    }

    /// When the calendar period of a window read at `t` begins; none: it has none.
    pub(crate) fn period_of(&self, extent: Extent, t: EventTime, periods: &mut Periods) -> Option<EventTime> {
        match (extent, self) {
            (Extent::Previous, Tiling::Calendar { calendar, .. }) => Some(previous(calendar, t, periods).start),
            (_, Tiling::Calendar { calendar, .. }) => Some(periods.of(calendar, t).start),
            _ => None,
        }
    }

    /// How long the window read at `t` is; none where that depends on the events.
    pub(crate) fn span(&self, extent: Extent, t: EventTime, periods: &mut Periods) -> Option<i64> {
        match (extent, self) {
            (Extent::Sliding(length), _) => Some(length),
            (Extent::Current, Tiling::Calendar { calendar, .. }) => Some((t.0 - periods.of(calendar, t).start.0).max(Span::SECOND.0)),
            (Extent::Previous, Tiling::Calendar { calendar, .. }) => {
                let before = previous(calendar, t, periods);
                Some((before.end.0 - before.start.0).max(Span::SECOND.0))
            }
            _ => None,
        }
    }
}

fn previous(calendar: &Calendar, t: EventTime, periods: &mut Periods) -> Period {
    let start = periods.of(calendar, t).start;
    periods.of(calendar, start - Span(1))
}

/// A window of a line: what features are called by, and where their states lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// As written, words joined: `7d`, `session_30m`; empty: a lifetime.
    pub suffix: String,
    pub extent: Extent,
    pub tiling: Tiling,
    /// The length asked for, where there is one.
    pub length: Option<Span>,
    pub hop: Option<Span>,
}

impl Window {
    pub(super) fn lifetime() -> Window {
        Window { suffix: String::new(), extent: Extent::Lifetime, tiling: Tiling::Whole, length: None, hop: None }
    }
}

/// The largest step not above a sixtieth of the window, at least a second.
pub(super) fn default_hop(window: Span) -> Span {
    let steps = [Span::DAY, Span(6 * Span::HOUR.0), Span::HOUR, Span(5 * Span::MINUTE.0), Span::MINUTE, Span(10 * Span::SECOND.0)];
    steps.into_iter().find(|step| step.0 <= window.0 / 60).unwrap_or(Span::SECOND)
}

/// What a line and its view say beside the window itself.
pub(super) struct Setting<'a> {
    /// The line's own hop, else the view's.
    pub hop: Option<Span>,
    pub hop_is_lines_own: bool,
    pub zone: &'a str,
}

/// Reads one item after `over`.
pub(super) fn parse(piece: &Piece<'_>, setting: &Setting<'_>) -> Result<Window, Problem> {
    let text = piece.text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let span = |word: &str| Span::parse(word).ok_or_else(|| not_a_span(piece));
    let window = match words.as_slice() {
        ["lifetime"] => Window::lifetime(),
        ["last", n] => latest(n)?,
        ["decay", half_life] => decay(span(half_life)?)?,
        ["session", gap] => session(span(gap)?, None, setting)?,
        ["session", gap, "max", max] => session(span(gap)?, Some(span(max)?), setting)?,
        ["previous", unit @ ..] => period(unit, Extent::Previous, piece, setting)?,
        ["tumbling", _] => period(&words, Extent::Current, piece, setting)?,
        [unit] if Unit::parse(unit).is_some() => period(&words, Extent::Current, piece, setting)?,
        [length, "exact"] => exact(span(length)?)?,
        [length] => sliding(span(length)?, setting)?,
        _ => return Err(unknown(piece)),
    };
    let tiled = matches!(window.tiling, Tiling::Even(hop) if hop != INSTANT) || matches!(window.tiling, Tiling::Calendar { .. });
    if setting.hop_is_lines_own && !tiled {
        let problem = Problem::new("bad_hop", format!("`{}` has no hop", piece.text));
        return Err(
            problem.hint("windows of a length, of a calendar and sessions have tiles; write this one without `hop`, as a line of its own")
        );
    }
    Ok(Window { suffix: if window.extent == Extent::Lifetime { String::new() } else { words.join("_") }, ..window })
}

fn unknown(piece: &Piece<'_>) -> Problem {
    Problem::new("bad_window", format!("`{}` is no window", piece.text)).hint(
        "windows: 7d, 7d exact, day (week, month, quarter, year), previous day, tumbling 6h, previous tumbling 6h, session 30m, \
         session 30m max 4h, last 10, decay 7d, lifetime",
    )
}

fn in_range(length: Span) -> Result<Span, Problem> {
    match (Span::SECOND..=MAX_WINDOW).contains(&length) {
        true => Ok(length),
        false => Err(Problem::new("bad_window", format!("a window of {length}")).hint("windows lie between 1s and 100 years (36525d)")),
    }
}

/// The hop of a window of this length: at least a second, at most the window.
fn hop(length: Span, longest: Span, setting: &Setting<'_>) -> Result<Span, Problem> {
    let hop = match setting.hop {
        Some(hop) if setting.hop_is_lines_own => hop,
        Some(hop) if (Span::SECOND..=MAX_WINDOW).contains(&hop) => hop.min(longest),
        _ => default_hop(length).min(longest),
    };
    if hop < Span::SECOND || hop > longest {
        let problem = Problem::new("bad_hop", format!("a hop of {hop} for a window of {length}"));
        return Err(problem.hint(match longest == length {
            true => "hops lie between 1s and the window's length".to_string(),
            false => format!("here hops lie between 1s and {longest}"),
        }));
    }
    if length.0 / hop.0 > MAX_TILES {
        return Err(Problem::new("too_many_tiles", format!("a window of {length} with a hop of {hop} has {} tiles", length.0 / hop.0))
            .hint(format!("the limit is {MAX_TILES}; without a hop it would be {}", default_hop(length))));
    }
    Ok(hop)
}

fn sliding(length: Span, setting: &Setting<'_>) -> Result<Window, Problem> {
    let length = in_range(length)?;
    let hop = hop(length, length, setting)?;
    Ok(Window {
        extent: Extent::Sliding(length.0),
        tiling: Tiling::Even(hop.0),
        length: Some(length),
        hop: Some(hop),
        ..Window::lifetime()
    })
}

fn exact(length: Span) -> Result<Window, Problem> {
    let length = in_range(length)?;
    Ok(Window {
        extent: Extent::Sliding(length.0),
        tiling: Tiling::Even(INSTANT),
        length: Some(length),
        hop: Some(Span(INSTANT)),
        ..Window::lifetime()
    })
}

fn session(gap: Span, max: Option<Span>, setting: &Setting<'_>) -> Result<Window, Problem> {
    let gap = in_range(gap)?;
    let max = in_range(max.unwrap_or(Span(SESSION_MAX.0.min(gap.0.saturating_mul(MAX_TILES))).max(gap)))?;
    if max < gap {
        return Err(Problem::new("bad_window", format!("sessions of at most {max} with gaps of {gap}")).hint("`max` is not below the gap"));
    }
    // With tiles longer than the gap a break could lie unseen within one.
    let hop = hop(max, gap, setting)?;
    let extent = Extent::Session { gap: gap.0, max: max.0 };
    Ok(Window { extent, tiling: Tiling::Even(hop.0), length: Some(max), hop: Some(hop), ..Window::lifetime() })
}

fn latest(n: &str) -> Result<Window, Problem> {
    match n.parse::<usize>() {
        Ok(n) if (1..=MAX_LATEST).contains(&n) => Ok(Window { extent: Extent::Latest(n), tiling: Tiling::Events(n), ..Window::lifetime() }),
        _ => Err(Problem::new("bad_window", format!("`last {n}`")).hint(format!("a whole number from 1 to {MAX_LATEST}, as in last 10"))),
    }
}

fn decay(half_life: Span) -> Result<Window, Problem> {
    let half_life = in_range(half_life)?;
    Ok(Window { extent: Extent::Decay(half_life.0), ..Window::lifetime() })
}

fn period(words: &[&str], extent: Extent, piece: &Piece<'_>, setting: &Setting<'_>) -> Result<Window, Problem> {
    let unit = match words {
        ["tumbling", length] => Unit::Even(in_range(Span::parse(length).ok_or_else(|| not_a_span(piece))?)?),
        [unit] => match Unit::parse(unit) {
            Some(unit) => unit,
            None => return Err(unknown(piece)),
        },
        _ => return Err(unknown(piece)),
    };
    let hop = hop(unit.usual(), unit.usual(), setting)?;
    let Some(calendar) = Calendar::new(unit, setting.zone) else {
        return Err(Problem::new("unknown_time_zone", format!("unknown time zone `{}`", setting.zone)));
    };
    let per = unit.longest().0 / hop.0 + 1;
    let tiling = Tiling::Calendar { calendar, hop: hop.0, per };
    Ok(Window { extent, tiling, length: Some(unit.usual()), hop: Some(hop), ..Window::lifetime() })
}
