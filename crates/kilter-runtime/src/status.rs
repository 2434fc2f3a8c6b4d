//! What the running system says of itself: counters and latencies, cheap to write, readable at any time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kilter_core::EventTime;
use kilter_features::{ViewCounts, ViewStats};
use kilter_pipeline::{Pipeline, Plan, Reading, SourceTally};
use serde::Serialize;

use crate::jobs::apply::Applying;
use crate::lake::LakeStatus;
use crate::watch::WatchState;

/// Counters since start, and latency histograms.
pub struct Status {
    pub events: AtomicU64,
    pub duplicates: AtomicU64,
    pub late: AtomicU64,
    pub next_offset: AtomicU64,
    /// The definitions in force are so from this offset on; 0: as far as anything says, always.
    pub since: AtomicU64,
    /// Microseconds since 1970; `i64::MIN` before the first event.
    pub event_time: AtomicI64,
    pub snapshots: AtomicU64,
    /// When a log last refused a write, in milliseconds since `started`; 0 while writes succeed.
    refused_at: AtomicU64,
    started: Instant,
    /// Dead letters by code.
    pub dead_letters: Mutex<BTreeMap<String, u64>>,
    /// Decisions by (decision, outcome).
    pub decisions: Mutex<BTreeMap<(String, String), u64>>,
    /// From an event's arrival at the door until its effect is visible to a decision.
    pub freshness: Latency,
    /// From a decide request's arrival until its answer is ready.
    pub decide: Latency,
    /// Size of each view's state, as of the last snapshot: counting walks over all entities.
    pub views: Mutex<Vec<ViewStats>>,
    /// What became of all events so far, as of the newest batch.
    pub counts: Mutex<StreamCounts>,
    /// The newest values of each monitor.
    pub readings: Mutex<BTreeMap<String, Readings>>,
    /// What the monitors of the machinery last saw.
    pub watches: Mutex<BTreeMap<String, WatchState>>,
    /// By source and partition: how far a source that is read from a partitioned stream has come.
    partitions: Mutex<BTreeMap<(String, u32), PartitionStatus>>,
    /// By source: why its topic is not read at present.
    source_problems: Mutex<BTreeMap<String, String>>,
    /// By sink: how far it has come.
    sinks: Mutex<BTreeMap<String, SinkStatus>>,
    /// How the lake stands; none: there is none, or nothing is known of it yet.
    lake: Mutex<Option<LakeStatus>>,
    /// How the shard's bundles stand; none: there are none to be, or nothing is known of them yet.
    bundle: Mutex<Option<BundleStatus>>,
    /// The newest apply of changed definitions.
    pub apply: Mutex<Option<Applying>>,
}

/// How far one partition has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// The next record to be taken.
    pub next: u64,
    /// Where the partition ended when that was last heard.
    pub end: u64,
}

impl PartitionStatus {
    /// Records that wait.
    pub fn lag(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}

/// How far a sink has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkStatus {
    /// Everything in its log before this offset has been delivered.
    pub next: u64,
    /// Where that log ended then.
    pub end: u64,
    pub delivered: u64,
    /// Why it delivers nothing at present.
    pub problem: Option<String>,
}

/// How the bundles of a shard stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BundleStatus {
    /// Where the newest one stands; none: there is none yet.
    pub offset: Option<u64>,
    /// When it was made.
    pub made: Option<EventTime>,
    pub bytes: u64,
    /// Why there is no newer one though one is due.
    pub problem: Option<String>,
}

/// What became of all events since the start of the log.
#[derive(Clone, Default)]
pub struct StreamCounts {
    /// The definitions that positions belong to; none before the start.
    pub plan: Option<Arc<Plan>>,
    /// By source.
    pub sources: Vec<SourceTally>,
    /// The newest event time of each source; none before its first event.
    pub watermarks: Vec<Option<EventTime>>,
    /// By view.
    pub views: Vec<ViewCounts>,
}

impl StreamCounts {
    pub(crate) fn take(&mut self, pipeline: &Pipeline) {
        let plan = pipeline.plan();
        if self.plan.as_ref().is_none_or(|known| !Arc::ptr_eq(known, plan)) {
            self.plan = Some(Arc::clone(plan));
        }
        self.sources.clear();
        self.sources.extend_from_slice(pipeline.tally());
        self.watermarks.clear();
        self.watermarks.extend((0..plan.sources.len()).map(|s| pipeline.watermark(kilter_core::SourceId(s as u16))));
        self.views.clear();
        self.views.extend(pipeline.engine().counts());
    }
}

/// The newest values of a monitor, oldest first, at most [`Readings::KEPT`].
#[derive(Clone, Debug, Default)]
pub struct Readings {
    pub values: VecDeque<Reading>,
}

impl Readings {
    pub const KEPT: usize = 1000;

    pub fn push(&mut self, reading: &Reading) {
        if self.values.len() == Readings::KEPT {
            self.values.pop_front();
        }
        self.values.push_back(reading.clone());
    }
}

/// A latency histogram in microseconds, 3 significant digits, up to 100 s.
pub struct Latency(Mutex<Histogram<u64>>);

/// All that a latency had recorded at one moment.
#[derive(Clone)]
pub struct Recording(Histogram<u64>);

/// Percentiles in microseconds of what was recorded between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub count: u64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Recording {
    /// What has come since an earlier moment; none: nothing.
    pub fn since(mut self, earlier: &Recording) -> Option<Window> {
        // Of a histogram that was emptied in between the earlier one is no part: then nothing can be told.
        self.0.subtract(&earlier.0).ok()?;
        let h = &self.0;
        let at = |quantile| h.value_at_quantile(quantile);
        (!h.is_empty()).then(|| Window { count: h.len(), p50_us: at(0.5), p95_us: at(0.95), p99_us: at(0.99), max_us: h.max() })
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    fn new() -> Latency {
        // The bounds are constants that the library accepts.
        Latency(Mutex::new(Histogram::new_with_bounds(1, 100_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))))
    }

    pub fn record(&self, took: Duration) {
        lock(&self.0).saturating_record(took.as_micros().max(1) as u64);
    }

    pub fn record_all(&self, took: impl Iterator<Item = (Duration, u64)>) {
        let mut histogram = lock(&self.0);
        for (duration, times) in took {
            let micros = (duration.as_micros().max(1) as u64).min(100_000_000);
            // Within bounds: recording cannot fail.
            let _ = histogram.record_n(micros, times);
        }
    }

    pub fn percentiles(&self) -> Percentiles {
        let h = lock(&self.0);
        if h.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            count: h.len(),
            p50_us: h.value_at_quantile(0.5),
            p99_us: h.value_at_quantile(0.99),
            p999_us: h.value_at_quantile(0.999),
            max_us: h.max(),
        }
    }

    /// How many durations lie up to each of the ascending `bounds` and above the one before, with one more for those above all; and the sum of
    /// all. In microseconds, to three digits.
    pub fn counts(&self, bounds: &[u64]) -> (Vec<u64>, u64) {
        let (mut counts, mut sum) = (vec![0; bounds.len() + 1], 0);
        for step in lock(&self.0).iter_recorded() {
            let micros = step.value_iterated_to();
            counts[bounds.partition_point(|bound| *bound < micros)] += step.count_at_value();
            sum += micros * step.count_at_value();
        }
        (counts, sum)
    }

    /// A copy of all that has been recorded so far.
    pub fn recording(&self) -> Recording {
        Recording(lock(&self.0).clone())
    }

    pub fn reset(&self) {
        lock(&self.0).reset();
    }
}

impl Default for Status {
    fn default() -> Self {
        Status {
            events: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            late: AtomicU64::new(0),
            next_offset: AtomicU64::new(0),
            since: AtomicU64::new(0),
            event_time: AtomicI64::new(i64::MIN),
            snapshots: AtomicU64::new(0),
            refused_at: AtomicU64::new(0),
            started: Instant::now(),
            dead_letters: Mutex::default(),
            decisions: Mutex::default(),
            freshness: Latency::new(),
            decide: Latency::new(),
            views: Mutex::default(),
            counts: Mutex::default(),
            readings: Mutex::default(),
            watches: Mutex::default(),
            partitions: Mutex::default(),
            source_problems: Mutex::default(),
            sinks: Mutex::default(),
            lake: Mutex::default(),
            bundle: Mutex::default(),
            apply: Mutex::default(),
        }
    }
}

impl Status {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Whether a log refused a write within the last seconds. Not longer: somebody must be let through to find out that it works again.
    pub fn is_log_broken(&self) -> bool {
        match self.refused_at.load(Ordering::Relaxed) {
            0 => false,
            at => self.started.elapsed().as_millis() as u64 - at.min(self.started.elapsed().as_millis() as u64) < 5_000,
        }
    }

    pub fn log_refused(&self) {
        self.refused_at.store((self.started.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
    }

    pub fn log_works(&self) {
        self.refused_at.store(0, Ordering::Relaxed);
    }

    pub fn count_dead(&self, code: &str) {
        *lock(&self.dead_letters).entry(code.to_string()).or_default() += 1;
    }

    pub fn dead_letters(&self) -> BTreeMap<String, u64> {
        lock(&self.dead_letters).clone()
    }

    pub fn decisions(&self) -> BTreeMap<(String, String), u64> {
        lock(&self.decisions).clone()
    }

    pub fn views(&self) -> Vec<ViewStats> {
        lock(&self.views).clone()
    }

    pub fn counts(&self) -> StreamCounts {
        lock(&self.counts).clone()
    }

    pub fn set_partition(&self, source: &str, partition: u32, state: PartitionStatus) {
        lock(&self.partitions).insert((source.to_owned(), partition), state);
    }

    /// Says why the topic of a source is not read; none: it is.
    pub fn set_source_problem(&self, source: &str, problem: Option<String>) {
        let mut problems = lock(&self.source_problems);
        match problem {
            Some(problem) => problems.insert(source.to_owned(), problem),
            None => problems.remove(source),
        };
    }

    pub fn source_problems(&self) -> BTreeMap<String, String> {
        lock(&self.source_problems).clone()
    }

    pub fn set_lake(&self, status: LakeStatus) {
        *lock(&self.lake) = Some(status);
    }

    pub fn lake(&self) -> Option<LakeStatus> {
        lock(&self.lake).clone()
    }

    pub fn set_bundle(&self, status: BundleStatus) {
        *lock(&self.bundle) = Some(status);
    }

    pub fn bundle(&self) -> Option<BundleStatus> {
        lock(&self.bundle).clone()
    }

    pub fn change_sink(&self, sink: &str, change: impl FnOnce(&mut SinkStatus)) {
        change(lock(&self.sinks).entry(sink.to_owned()).or_default());
    }

    pub fn partitions(&self) -> BTreeMap<(String, u32), PartitionStatus> {
        lock(&self.partitions).clone()
    }

    pub fn sinks(&self) -> BTreeMap<String, SinkStatus> {
        lock(&self.sinks).clone()
    }

    pub fn applying(&self) -> Option<Applying> {
        lock(&self.apply).clone()
    }

    pub fn watches(&self) -> BTreeMap<String, WatchState> {
        lock(&self.watches).clone()
    }

    /// The newest value of each monitor.
    pub fn newest_readings(&self) -> BTreeMap<String, Reading> {
        let readings = lock(&self.readings);
        readings.iter().filter_map(|(monitor, known)| Some((monitor.clone(), known.values.back()?.clone()))).collect()
    }

    pub fn readings(&self) -> BTreeMap<String, Readings> {
        lock(&self.readings).clone()
    }
}

/// A panic of another holder leaves counters whole: go on with them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_between_bounds() {
        let latency = Latency::new();
        for micros in [1, 100, 101, 250, 7_000_000] {
            latency.record(Duration::from_micros(micros));
        }
        let (counts, sum) = latency.counts(&[100, 200, 300]);
        assert_eq!(counts, [2, 1, 1, 1]);
        let exact = 1 + 100 + 101 + 250 + 7_000_000;
        assert!(sum.abs_diff(exact) <= exact / 1000, "{sum}");
        assert_eq!(Latency::new().counts(&[100]), (vec![0, 0], 0));
    }
}
