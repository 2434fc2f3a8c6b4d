//! `kilter generate`: synthetic data, seeded and the same everywhere.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kilter_core::Span;

use crate::commands::grouped;
use crate::generate::card_fraud::{CSV_HEADER, CardFraud, CardFraudOptions};
use crate::generate::lender::{Lender, LenderOptions, SOURCES};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A lender: transactions, applications and repayments, one NDJSON file each.
    Lender {
        /// Folder to write to.
        #[arg(long, default_value = ".")]
        out: PathBuf,
        #[arg(long, default_value_t = LenderOptions::default().seed)]
        seed: u64,
        #[arg(long, default_value_t = LenderOptions::default().customers)]
        customers: u32,
        #[arg(long, default_value_t = LenderOptions::default().days)]
        days: u32,
    },
    /// Card transactions by the Fraud Detection Handbook's published process, one CSV file.
    CardFraud {
        /// File to write.
        #[arg(long, default_value = "transactions.csv")]
        out: PathBuf,
        #[arg(long, default_value_t = CardFraudOptions::default().seed)]
        seed: u64,
        #[arg(long, default_value_t = CardFraudOptions::default().customers)]
        customers: u32,
        #[arg(long, default_value_t = CardFraudOptions::default().terminals)]
        terminals: u32,
        #[arg(long, default_value_t = CardFraudOptions::default().days)]
        days: u32,
    },
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Lender { out, seed, customers, days } => {
            std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
            let options = LenderOptions { seed, customers, days, ..LenderOptions::default() };
            let mut files = Vec::new();
            for source in SOURCES {
                files.push((source, create(&out.join(format!("{source}.ndjson")))?, 0u64));
            }
            let mut line = String::new();
            for event in Lender::new(options) {
                line.clear();
                event.write_json(&mut line);
                line.push('\n');
                if let Some((_, file, count)) = files.iter_mut().find(|(source, _, _)| *source == event.source()) {
                    file.write_all(line.as_bytes())?;
                    *count += 1;
                }
            }
            for (source, mut file, count) in files {
                file.flush()?;
                println!("{}: {} events", out.join(format!("{source}.ndjson")).display(), grouped(count));
            }
        }
        What::CardFraud { out, seed, customers, terminals, days } => {
            let options = CardFraudOptions { seed, customers, terminals, days, ..CardFraudOptions::default() };
            let end = options.start + Span(Span::DAY.0 * i64::from(days));
            let mut file = create(&out)?;
            file.write_all(CSV_HEADER.as_bytes())?;
            file.write_all(b"\n")?;
            let mut line = String::new();
            let mut count = 0;
            for transaction in CardFraud::new(options) {
                line.clear();
                transaction.write_csv(&mut line);
                line.push('\n');
                file.write_all(line.as_bytes())?;
                count += 1;
            }
            file.flush()?;
            println!("{}: {} transactions up to {end}", out.display(), grouped(count));
        }
    }
    Ok(())
}

fn create(path: &Path) -> anyhow::Result<BufWriter<std::fs::File>> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}
