//! What came of a run: every latency is kept, so percentiles are exact.

use std::time::Duration;

#[derive(Default)]
pub struct Report {
    pub seconds: f64,
    pub lines: u64,
    /// Answers other than 2xx.
    pub refused: u64,
    /// Requests without an answer in time, or probes whose effect never showed.
    pub failed: u64,
    /// Requests that were due but never sent, because all connections were waiting.
    pub unsent: u64,
    /// Questions of a probe.
    pub asked: u64,
    latencies: Vec<u64>,
}

impl Report {
    pub fn answered(&mut self, status: u16, took: Duration, lines: u64) {
        if (200..300).contains(&status) {
            self.lines += lines;
        } else {
            self.refused += 1;
        }
        self.latencies.push(took.as_nanos() as u64);
    }

    pub fn into_json(mut self) -> String {
        let requests = self.latencies.len();
        let took = percentiles(&mut self.latencies);
        format!(
            "{{\"seconds\":{:.3},\"requests\":{requests},\"lines\":{},\"refused\":{},\"failed\":{},\"unsent\":{},\"asked\":{},\
             \"per_second\":{:.1},\"lines_per_second\":{:.1},{took}}}",
            self.seconds,
            self.lines,
            self.refused,
            self.failed,
            self.unsent,
            self.asked,
            requests as f64 / self.seconds,
            self.lines as f64 / self.seconds,
        )
    }
}

/// In milliseconds.
fn percentiles(nanos: &mut [u64]) -> String {
    nanos.sort_unstable();
    let at = |q: f64| nanos.get(((nanos.len() as f64 * q).ceil() as usize).saturating_sub(1)).map_or(0.0, |&n| n as f64 / 1e6);
    format!("\"p50_ms\":{:.4},\"p99_ms\":{:.4},\"p999_ms\":{:.4},\"max_ms\":{:.4}", at(0.5), at(0.99), at(0.999), at(1.0))
}
