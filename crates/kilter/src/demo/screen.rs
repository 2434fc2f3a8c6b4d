//! What the terminal shows while the demo runs.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kilter_core::{EventTime, Span};
use kilter_runtime::{Service, Status};

use super::Trainings;
use super::stream::Played;
use crate::commands::grouped;
use crate::generate::lender::LenderOptions;

/// A live block at the bottom of a terminal, or a plain line every few seconds.
pub struct Screen {
    service: Arc<Service>,
    trainings: Trainings,
    start: EventTime,
    shift_at: EventTime,
    days: u32,
    state: Mutex<State>,
}

struct State {
    bars: Option<Bars>,
    /// Trainings told of.
    told: usize,
    alarms: usize,
    shift_told: bool,
    last_line: Instant,
    /// Events and time at the last look, for the rate of now.
    before: (u64, Duration),
    rate: f64,
}

struct Bars {
    all: MultiProgress,
    progress: ProgressBar,
    lines: Vec<ProgressBar>,
}

const LINE_EVERY: Duration = Duration::from_secs(5);
/// Over how long the rate of now is taken.
const RATE_OVER: Duration = Duration::from_secs(3);

impl Screen {
    pub fn new(headless: bool, service: Arc<Service>, trainings: Trainings, options: &LenderOptions, shift_at: EventTime) -> Screen {
        let bars = (!headless && std::io::stderr().is_terminal()).then(|| Bars::new(u64::from(options.days)));
        Screen {
            service,
            trainings,
            start: options.start,
            shift_at,
            days: options.days,
            state: Mutex::new(State {
                bars,
                told: 0,
                alarms: 0,
                shift_told: false,
                last_line: Instant::now(),
                before: (0, Duration::ZERO),
                rate: 0.0,
            }),
        }
    }

    pub fn update(&self, played: &Played) {
        let Ok(mut state) = self.state.lock() else { return };
        let day = (played.event_time - self.start).0 / Span::DAY.0;
        let (events, at) = state.before;
        if played.elapsed - at > RATE_OVER {
            state.rate = (played.events - events) as f64 / (played.elapsed - at).as_secs_f64();
            state.before = (played.events, played.elapsed);
        }
        self.tell_news(&mut state, played, day);
        let freshness = self.service.status.freshness.percentiles();
        let decide = self.service.status.decide.percentiles();
        let decisions = self.service.status.decisions();
        let outcomes: Vec<String> = decisions.iter().map(|((_, outcome), n)| format!("{outcome} {}", grouped(*n))).collect();
        let drift = self.last_reading("drift");
        let lines = [
            format!(
                "{}   {} events, {} a second{}",
                date(played.event_time),
                grouped(played.events),
                grouped(state.rate as u64),
                if played.event_time >= self.shift_at { "   [recession]" } else { "" }
            ),
            format!(
                "freshness p50 {}  p99 {}    decision p50 {}  p99 {}",
                micros(freshness.p50_us),
                micros(freshness.p99_us),
                micros(decide.p50_us),
                micros(decide.p99_us)
            ),
            format!("decisions {}", if outcomes.is_empty() { "none yet".into() } else { outcomes.join(", ") }),
            format!(
                "champion {}    drift {}    late {}",
                self.champion(),
                drift.map_or("not measured yet".into(), |(subject, value)| format!("psi {value:.3} ({subject})")),
                Status::get(&self.service.status.late)
            ),
        ];
        match &state.bars {
            Some(bars) => {
                bars.progress.set_position(day as u64);
                for (bar, line) in bars.lines.iter().zip(lines) {
                    bar.set_message(line);
                }
            }
            None if state.last_line.elapsed() >= LINE_EVERY => {
                state.last_line = Instant::now();
                println!("day {day:>3}  {}", lines.join("  |  "));
                // A pipe's reader may be gone; the demo goes on.
                let _ = std::io::stdout().flush();
            }
            None => {}
        }
        if day + 1 >= i64::from(self.days)
            && let Some(bars) = &state.bars
        {
            bars.progress.set_position(u64::from(self.days));
        }
    }

    /// Trainings, the shift and the first alarm, each told once.
    fn tell_news(&self, state: &mut State, played: &Played, day: i64) {
        let mut news = Vec::new();
        if !state.shift_told && played.event_time >= self.shift_at {
            state.shift_told = true;
            news.push(format!("day {day:>3}  the recession begins: jobs are lost, salaries fall"));
        }
        if let Ok(trainings) = self.trainings.lock() {
            for result in trainings.iter().skip(state.told) {
                news.push(match result {
                    Ok(r) => format!(
                        "day {day:>3}  version {} trained on {} applications: {} ({})",
                        r.version,
                        grouped(r.train_rows as u64),
                        if r.promote { "promoted" } else { "kept as challenger" },
                        r.verdict
                    ),
                    Err(_) if state.told == 0 => format!("day {day:>3}  no training yet: the first labels mature after 21 days"),
                    Err(e) => format!("day {day:>3}  no training: {}", e.lines().next().unwrap_or_default()),
                });
            }
            state.told = trainings.len();
        }
        let readings = self.service.status.readings();
        let alarms = readings.values().flat_map(|r| &r.values).filter(|r| r.crossed.is_some()).count();
        if alarms > 0 && state.alarms == 0 {
            for (monitor, readings) in &readings {
                if let Some(r) = readings.values.iter().find(|r| r.crossed.is_some()) {
                    news.push(format!("day {day:>3}  alarm of monitor {monitor}: {} at {:.3} on {}", r.subject, r.value, date(r.at)));
                }
            }
        }
        state.alarms = alarms;
        for line in news {
            match &state.bars {
                Some(bars) => {
                    // Nothing to do about a terminal that has gone.
                    let _ = bars.all.println(line);
                }
                None => println!("{line}"),
            }
        }
    }

    fn champion(&self) -> String {
        let trainings = self.trainings.lock().map(|t| t.clone()).unwrap_or_default();
        let in_service = trainings.iter().filter_map(|t| t.as_ref().ok()).rfind(|r| r.promote);
        in_service.map_or("none yet".into(), |r| {
            let auc = r.holdout.as_ref().map_or(f64::NAN, |e| e.get("auc"));
            format!("version {} (auc {auc:.3} held out)", r.version)
        })
    }

    fn last_reading(&self, monitor: &str) -> Option<(String, f64)> {
        let readings = self.service.status.readings();
        readings.get(monitor)?.values.back().map(|r| (r.subject.clone(), r.value))
    }
}

impl Bars {
    fn new(days: u64) -> Bars {
        let all = MultiProgress::new();
        let style = |template: &str, default: ProgressStyle| ProgressStyle::with_template(template).unwrap_or(default);
        let progress = all.add(ProgressBar::new(days));
        progress.set_style(style("{bar:50.cyan/white.dim} day {pos} of {len}   {elapsed}", ProgressStyle::default_bar()));
        let lines = (0..4)
            .map(|_| {
                let bar = all.add(ProgressBar::new_spinner());
                bar.set_style(style("  {msg}", ProgressStyle::default_spinner()));
                bar
            })
            .collect();
        Bars { all, progress, lines }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.progress.finish_and_clear();
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// The date and hour of a time.
pub fn date(t: EventTime) -> String {
    t.to_string().chars().take(16).collect::<String>().replace('T', " ")
}

/// A latency in its best unit.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}
