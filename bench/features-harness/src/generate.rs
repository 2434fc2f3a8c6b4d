//! The events: payments of 300 bytes, accounts by Zipf's law, thirty days, a few percent behind their time. The same seed gives the same file.

use std::fs::File;
use std::io::{BufWriter, Write};

use kilter_stats::Rng;
use serde_json::{Value, json};

use crate::{Options, fail};

const BYTES: usize = 300;
const MERCHANTS: u64 = 20_000;
const KINDS: [&str; 4] = ["card", "cash", "transfer", "withdrawal"];
pub const MONTH_MS: u64 = 30 * 86_400_000;
/// Of a thousand events, how many come late, and by how much at most: within the hour that a source allows by default.
const LATE_PER_MILLE: u64 = 30;
const LATE_MS: u64 = 30 * 60_000;
const WORDS: [&str; 16] = [
    "order",
    "invoice",
    "ref",
    "payment",
    "rent",
    "monthly",
    "subscription",
    "groceries",
    "ticket",
    "refund",
    "travel",
    "coffee",
    "fuel",
    "gift",
    "service",
    "deposit",
];

pub fn generate(path: &str, options: &Options) -> Value {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap_or_else(|e| fail(&format!("{path}: {e}"))));
    let mut rng = Rng::seeded(options.seed);
    let (accounts, merchants) = (Zipf::new(options.entities), Zipf::new(MERCHANTS));
    let mut line = String::new();
    for i in 0..options.events {
        let due = i * MONTH_MS / options.events;
        let late = if rng.below(1_000) < LATE_PER_MILLE { rng.below(LATE_MS) } else { 0 };
        line.clear();
        event(&mut line, account(accounts.draw(&mut rng), options.entities), merchants.draw(&mut rng), due.saturating_sub(late), &mut rng);
        out.write_all(line.as_bytes()).unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    }
    out.flush().unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    json!({ "events": options.events, "bytes_an_event": BYTES })
}

/// One object of [`BYTES`] bytes with its line end.
pub fn event(line: &mut String, account: u64, merchant: u64, ms: u64, rng: &mut Rng) {
    use std::fmt::Write;
    let cents = (rng.normal() * 1.2 + 8.0).exp() as u64 % 10_000_000 + 1;
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    // Thirty days from the first of January lie within January.
    let at = format!("2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z", hours / 24 + 1, hours % 24, minutes % 60, seconds % 60, ms % 1_000);
    let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
    let written = write!(
        line,
        r#"{{"account_id":{account},"merchant":"m{merchant:05}","amount":{}.{:02},"kind":"{kind}","at":"{at}","note":""#,
        cents / 100,
        cents % 100
    );
    debug_assert!(written.is_ok(), "writing to memory cannot fail");
    let end = BYTES - "\"}\n".len();
    while line.len() < end {
        line.push_str(WORDS[rng.below(WORDS.len() as u64) as usize]);
        line.push(' ');
    }
    line.truncate(end);
    line.push_str("\"}\n");
}

/// Accounts that are next to each other in rank are not next to each other in number.
pub fn account(rank: u64, entities: u64) -> u64 {
    const PRIME: u64 = 2_147_483_647;
    10_000_000 + rank * PRIME % entities
}

/// Zipf's law with exponent 1: rank r is drawn in proportion to 1 / (r + 1).
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(n: u64) -> Zipf {
        let mut sum = 0.0;
        Zipf {
            cumulative: (1..=n)
                .map(|r| {
                    sum += 1.0 / r as f64;
                    sum
                })
                .collect(),
        }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let x = rng.uniform() * total;
        self.cumulative.partition_point(|c| *c <= x).min(self.cumulative.len() - 1) as u64
    }
}
