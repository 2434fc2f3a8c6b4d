//! `kilter demo`: the whole loop on a synthetic lender, through the real HTTP, log, engine and serving path.

mod report;
mod screen;
mod stream;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use kilter_core::Span;
use kilter_runtime::jobs::train::TrainReport;
use kilter_runtime::project::{self, TEMPLATES};
use kilter_runtime::{Service, StartOptions};

use crate::api::{Client, serve};
use crate::generate::lender::LenderOptions;

#[derive(clap::Args)]
pub struct Args {
    /// Accounts of the lender; events and applications grow with it (4000 accounts: about 0.6 million events).
    #[arg(long, default_value_t = LenderOptions::default().customers)]
    customers: u32,
    /// Days to play.
    #[arg(long, default_value_t = LenderOptions::default().days)]
    days: u32,
    /// The day on which the recession begins.
    #[arg(long, default_value_t = LenderOptions::default().recession_day)]
    recession_day: u32,
    /// Everyday bookings per account, times this: 10 gives several million events.
    #[arg(long, default_value_t = LenderOptions::default().activity)]
    activity: f64,
    #[arg(long, default_value_t = LenderOptions::default().seed)]
    seed: u64,
    /// Where the demo's project is made; a temporary folder otherwise.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Plain lines instead of a live screen.
    #[arg(long)]
    headless: bool,
    /// Write the closing figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Stay up when the stream has ended, until Ctrl-C.
    #[arg(long)]
    serve: bool,
    /// Address of the demo's server; a free port on loopback otherwise (with --serve: 127.0.0.1:8080).
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// The trainings that ran by themselves, in order.
pub type Trainings = Arc<Mutex<Vec<Result<TrainReport, String>>>>;

pub async fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.customers > 0 && args.days > 0, "a lender needs customers and days");
    let options = LenderOptions {
        seed: args.seed,
        customers: args.customers,
        days: args.days,
        recession_day: args.recession_day,
        activity: args.activity,
        ..LenderOptions::default()
    };
    let folder = Folder::make(args.dir.clone())?;
    let text = TEMPLATES.iter().find(|t| t.name == "credit-risk").map_or("", |t| t.text);
    // The example asks for two weeks of 4000 accounts' applications before it trains; a smaller lender has as many weeks, not as many rows.
    let rows = (3000 * u64::from(args.customers) / u64::from(LenderOptions::default().customers)).max(50);
    let text = text.replace("min_rows = 3000", &format!("min_rows = {rows}"));
    // And it needs more days to make as many decisions to compare, though fewer than lie between two weekly trainings.
    let days = (2 * LenderOptions::default().customers).div_ceil(args.customers).clamp(2, 5);
    let text = text.replace("window = \"2d\"", &format!("window = \"{days}d\""));
    let definitions = folder.path.join(project::FILE_NAME);
    if !definitions.exists() {
        std::fs::write(&definitions, text).with_context(|| format!("cannot write {}", definitions.display()))?;
    }
    let project = crate::api::load(&folder.path)?;

    let trainings = Trainings::default();
    let told = Arc::clone(&trainings);
    let start = StartOptions {
        on_trained: Arc::new(move |result| {
            if let Ok(mut all) = told.lock() {
                all.push(result.clone());
            }
        }),
        ..StartOptions::default()
    };
    let service = Service::start(project, start).await?;
    anyhow::ensure!(
        service.data.events.next_offset() == 0,
        "{} holds the events of an earlier demo\n  hint: give --dir a new folder",
        folder.path.display()
    );
    let listen = args.listen.clone().unwrap_or_else(|| if args.serve { "127.0.0.1:8080" } else { "127.0.0.1:0" }.into());
    let server = serve(&service, &listen).await?;
    let address = server.address;
    println!(
        "kilter demo: a lender with {} accounts, {} days, a recession on day {}; project in {}, API on http://{address}",
        args.customers,
        args.days,
        args.recession_day,
        folder.path.display()
    );

    let started = Instant::now();
    let shift_at = options.start + Span(Span::DAY.0 * i64::from(options.recession_day));
    let screen = screen::Screen::new(args.headless, Arc::clone(&service), Arc::clone(&trainings), &options, shift_at);
    let client = Client::new(address);
    let played = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || stream::play(&client, options, |p| screen.update(p))).await??
    };
    println!("\nThe stream has ended. Comparing with nightly-batch features and replaying every decision ...");
    let report = {
        let (service, trainings) = (Arc::clone(&service), Arc::clone(&trainings));
        tokio::task::spawn_blocking(move || report::make(&service, &trainings, &played, shift_at, started)).await??
    };
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json())?).with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures written to {}", path.display());
    }
    if args.serve {
        println!("\nserving on http://{address} (docs at /docs); Ctrl-C ends it");
        crate::commands::up::StopSignal::listen()?.wait().await;
    }
    server.stop().await?;
    anyhow::ensure!(report.replay.mismatches == 0, "{} decisions did not come out the same in the replay", report.replay.mismatches);
    Ok(())
}

/// The demo's project folder; a temporary one is removed at the end.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn make(wanted: Option<PathBuf>) -> anyhow::Result<Folder> {
        let temporary = wanted.is_none();
        let path = wanted.unwrap_or_else(|| std::env::temp_dir().join(format!("kilter-demo-{}", std::process::id())));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Left-over files in a temporary folder harm nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
