//! `kilter training-set`: the features of every row of a spine, as they were known at its moment, in one file.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use kilter_core::{EventTime, Span};
use kilter_runtime::jobs::training_set::{self, Features, Lags, Limits, Mode, Pick, Progress, Report, Request, Sample, Spine};
use kilter_runtime::project::{Project, Size};
use kilter_runtime::{Data, TableFormat};
use serde_json::json;

use crate::api::{is_locked, load};
use crate::commands::{grouped, parse_span, parse_time};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  kilter training-set loans.parquet --events applications --model default_risk
  kilter training-set march.parquet --spine labels.csv --features 'account.*,burden = payment / account.income_30d'
  kilter training-set history.parquet --spine labels.parquet --mode event-time --lag 5m --lag repayments=1d
  kilter training-set seen.parquet --decision loan --mode as-logged

More: docs/guide/training-sets.md")]
pub struct Args {
    /// The file to write; its extension tells the format: parquet, arrow (feather), csv, ndjson.
    out: PathBuf,
    #[command(flatten)]
    spine: SpineArgs,
    /// What counts as known at a row: what was recorded with decisions, what had arrived, or what had happened by the events' own times.
    #[arg(long, value_enum, default_value = "replay", help_heading = "Time")]
    mode: ModeArg,
    /// How long after its time an event is known, for all sources or one; with `--mode event-time`.
    #[arg(long, value_name = "[SOURCE=]SPAN", value_parser = lag, help_heading = "Time")]
    lag: Vec<(Option<String>, Span)>,
    /// Count what becomes known in a row's own instant; of a row that is an event of the log, that event.
    #[arg(long, help_heading = "Time")]
    include_self: bool,
    /// `account.*`, `account.amount_14d`, `burden = payment / account.income_14d`, `scoring.*` of a service; separated by commas, or given several
    /// times. Left out: the inputs of the decision's model, or every feature in reach.
    #[arg(long, value_name = "LIST", help_heading = "Columns")]
    features: Vec<String>,
    /// Exactly the inputs of this model.
    #[arg(long, conflicts_with = "features", help_heading = "Columns")]
    model: Option<String>,
    /// Columns of the spine that hold a view's key, where the names differ: `account=debtor_id`.
    #[arg(long, value_name = "VIEW=COLUMN[,COLUMN]", value_parser = key, help_heading = "Columns")]
    keys: Vec<(String, Vec<String>)>,
    /// Format of the file, when its extension does not tell.
    #[arg(long, value_parser = format)]
    format: Option<TableFormat>,
    /// Memory the work may take, about: `512MiB`, `4GiB`. More entities than fit are worked through one part after the other, by way of the disk.
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = memory)]
    memory: usize,
    /// Worker threads, each with a part of the entities at a time; the machine's cores when left out. The file is the same with any number.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Replace the file if it is there.
    #[arg(long)]
    overwrite: bool,
    /// Throw away what an interrupted run has done, instead of going on from it.
    #[arg(long)]
    restart: bool,
    /// The closing figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("rows").required(true)))]
struct SpineArgs {
    /// A file of rows (CSV, NDJSON, Parquet): keys, a time and whatever is to be carried along, such as a label.
    #[arg(long, group = "rows", value_name = "FILE", help_heading = "Rows")]
    spine: Option<PathBuf>,
    /// The events of a source.
    #[arg(long, group = "rows", value_name = "SOURCE", help_heading = "Rows")]
    events: Option<String>,
    /// The events that a decision was made on, with outcome and score.
    #[arg(long, group = "rows", value_name = "NAME", help_heading = "Rows")]
    decision: Option<String>,
    /// Column of the file that holds a row's time; needed when it is not plain.
    #[arg(long, value_name = "COLUMN", requires = "spine", help_heading = "Rows")]
    time: Option<String>,
    /// Only events for which this holds, an SQL expression over the event's columns: `amount > 100 and kind = 'card'`.
    #[arg(long = "where", value_name = "CONDITION", conflicts_with = "spine", help_heading = "Rows")]
    condition: Option<String>,
    /// Only events from this event time on.
    #[arg(long, value_parser = parse_time, conflicts_with = "spine", help_heading = "Rows")]
    from: Option<EventTime>,
    /// Only events before this event time.
    #[arg(long, value_parser = parse_time, conflicts_with = "spine", help_heading = "Rows")]
    to: Option<EventTime>,
    /// Only this share of the events, chosen by a hash.
    #[arg(long, value_name = "SHARE", conflicts_with = "spine", help_heading = "Rows")]
    sample: Option<f64>,
    /// All or none of the events with one value of this column.
    #[arg(long, value_name = "COLUMN", requires = "sample", help_heading = "Rows")]
    sample_by: Option<String>,
    /// Another seed, another sample.
    #[arg(long, default_value_t = 7, requires = "sample", help_heading = "Rows")]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ModeArg {
    AsLogged,
    Replay,
    EventTime,
}

fn lag(text: &str) -> Result<(Option<String>, Span), String> {
    let (source, span) = text.split_once('=').map_or((None, text), |(source, span)| (Some(source.to_string()), span));
    // A lag of nothing is one.
    let span = if matches!(span, "0" | "0s") { Span::ZERO } else { parse_span(span)? };
    Ok((source, span))
}

fn key(text: &str) -> Result<(String, Vec<String>), String> {
    let (view, columns) = text.split_once('=').ok_or("write VIEW=COLUMN")?;
    Ok((view.trim().to_string(), columns.split(',').map(|c| c.trim().to_string()).collect()))
}

fn format(text: &str) -> Result<TableFormat, String> {
    TableFormat::parse(text).ok_or_else(|| "there are: parquet, arrow, csv, ndjson".into())
}

fn memory(text: &str) -> Result<usize, String> {
    let Size(bytes) = Size::parse(text).ok_or_else(|| format!("`{text}` is no size; write a number and a unit: 512MiB, 4GiB"))?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes >= Limits::LEAST)
        .ok_or_else(|| "less than the 256MiB that the work makes do with".into())
}

/// The items of a list: commas inside parentheses and quotes belong to an expression.
fn items(text: &str) -> Vec<String> {
    let (mut items, mut item, mut depth, mut quote) = (Vec::new(), String::new(), 0usize, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                items.push(std::mem::take(&mut item));
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    items.push(item);
    items.into_iter().map(|i| i.trim().to_string()).filter(|i| !i.is_empty()).collect()
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let json = args.json;
    let request = request(args)?;
    let project = load(dir)?;
    let data = Data::open(&project).await.map_err(|e| match is_locked(&e) {
        true => anyhow::anyhow!("a running kilter has the project open\n  hint: stop it, or work on a copy of the data folder"),
        false => e,
    })?;
    tokio::task::spawn_blocking(move || write(&data, &project, &request, json)).await?
}

fn request(args: Args) -> anyhow::Result<Request> {
    let extension = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let format = args.format.or_else(|| TableFormat::parse(extension)).with_context(|| {
        format!(
            "the extension of {} names no format\n  hint: end the name with .parquet, .arrow, .csv or .ndjson, or say --format",
            args.out.display()
        )
    })?;
    let SpineArgs { spine, events, decision, time, condition, from, to, sample, sample_by, seed } = args.spine;
    let pick = Pick { condition, from, to, sample: sample.map(|share| Sample { share, seed, by: sample_by }) };
    let spine = match (spine, events, decision) {
        (Some(path), ..) => Spine::File { path, time },
        (_, Some(source), _) => Spine::Events { source, pick },
        (_, _, Some(decision)) => Spine::Decisions { decision, pick },
        _ => anyhow::bail!("no rows\n  hint: --spine FILE, --events SOURCE or --decision NAME"),
    };
    anyhow::ensure!(
        args.lag.is_empty() || args.mode == ModeArg::EventTime,
        "--lag says how long after its time an event is known, which only --mode event-time asks\n  hint: add --mode event-time"
    );
    let mode = match args.mode {
        ModeArg::AsLogged => Mode::AsLogged,
        ModeArg::Replay => Mode::Replay,
        ModeArg::EventTime => {
            let mut lags = Lags::default();
            for (source, span) in args.lag {
                match source {
                    Some(source) => lags.by_source.push((source, span)),
                    None => lags.all = span,
                }
            }
            Mode::EventTime(lags)
        }
    };
    let features = match (args.model, args.features.iter().flat_map(|text| items(text)).collect::<Vec<_>>()) {
        (Some(model), _) => Features::Model(model),
        (None, list) if list.is_empty() => Features::Default,
        (None, list) => Features::List(list),
    };
    Ok(Request {
        out: args.out,
        format,
        spine,
        mode,
        features,
        keys: args.keys,
        include_self: args.include_self.then_some(true),
        threads: args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        overwrite: args.overwrite,
        restart: args.restart,
        limits: Limits::of(args.memory),
    })
}

fn write(data: &Data, project: &Project, request: &Request, as_json: bool) -> anyhow::Result<()> {
    let bar = if std::io::stderr().is_terminal() && !as_json { ProgressBar::new(1000) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:40} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut pace = Pace::default();
    let report = training_set::write(data, project, request, &mut |p: &Progress| {
        let share = p.done as f64 / p.total.max(1) as f64;
        bar.set_position((share * 1000.0) as u64);
        bar.set_message(pace.message(p, share));
    });
    bar.finish_and_clear();
    let report = report?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&figures(request, &report))?);
    } else {
        show(request, &report);
    }
    Ok(())
}

/// Time left of the phase under way.
#[derive(Default)]
struct Pace {
    phase: &'static str,
    began: Option<(Instant, f64)>,
}

impl Pace {
    fn message(&mut self, p: &Progress, share: f64) -> String {
        if self.phase != p.phase {
            (self.phase, self.began) = (p.phase, Some((Instant::now(), share)));
        }
        let Some((began, from)) = self.began else { return String::new() };
        let seconds = began.elapsed().as_secs_f64();
        let left = match share > from {
            true => HumanDuration(Duration::from_secs_f64(((1.0 - share) / (share - from) * seconds).clamp(0.0, 1e8))).to_string(),
            false => "unknown".into(),
        };
        format!("{}: {} of {}, {left} left", p.phase, grouped(p.done), grouped(p.total))
    }
}

fn figures(request: &Request, report: &Report) -> serde_json::Value {
    let counts = &report.counts;
    json!({
        "file": request.out.display().to_string(), "rows": counts.rows, "columns": report.columns, "bytes": report.bytes,
        "seconds": report.seconds, "rows_per_second": counts.rows as f64 / report.seconds, "resumed": report.resumed, "parts": report.parts,
        "divided": report.divided,
        "until_offset": report.until, "before_log": counts.before_log, "beyond_log": counts.beyond_log, "without_key": counts.without_key,
    })
}

fn show(request: &Request, report: &Report) {
    let counts = &report.counts;
    let rate = counts.rows as f64 / report.seconds;
    println!(
        "{}: {} rows of {} columns, {}, in {:.1} s ({} rows a second)",
        request.out.display(),
        grouped(counts.rows),
        report.columns,
        HumanBytes(report.bytes),
        report.seconds,
        grouped(rate as u64)
    );
    if report.resumed > 0 {
        println!("{} of {} parts of the work had been finished by an interrupted run", report.resumed, report.parts);
    }
    if report.divided > 0 {
        println!(
            "{} parts took more memory than --memory leaves them and were read again in halves: with more it is faster",
            report.divided
        );
    }
    for (view, rows) in &counts.without_key {
        println!("{} rows have no key of view `{view}`: its features are null there", grouped(*rows));
    }
    if counts.beyond_log > 0 {
        let end = report.known.map_or("which is empty".to_string(), |t| format!("{t}"));
        println!("{} rows lie after the end of the log ({end}): their features are as of that end", grouped(counts.beyond_log));
    }
    if counts.before_log > 0 {
        println!("{} rows lie before anything was known: their features are those of an empty history", grouped(counts.before_log));
        if matches!(request.mode, Mode::Replay) {
            println!(
                "  hint: replay goes by when events arrived here; for history taken in later, --mode event-time goes by the events' own times"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_inside_an_expression_do_not_end_it() {
        assert_eq!(items("a.*, b = coalesce(x, 0) , c = 'p,q'"), ["a.*", "b = coalesce(x, 0)", "c = 'p,q'"]);
        assert_eq!(items(" ,a.b,, "), ["a.b"]);
    }

    #[test]
    fn lags_are_for_all_or_for_one_source() {
        assert_eq!(lag("5m"), Ok((None, Span(300_000_000))));
        assert_eq!(lag("payments=0s"), Ok((Some("payments".into()), Span::ZERO)));
        assert!(lag("payments=soon").is_err());
    }
}
