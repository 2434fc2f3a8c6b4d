//! Worker threads over the steps, and what they leave on disk: rows in parts, and at times the whole state, so that an interrupted job goes on.
//!
//! ```text
//! OUT.partial/manifest.json   what the job is, how far it has come, the parts that count
//!             events.sorted   events by the moment they became known (event time)
//!             spine.sorted    rows by time
//!             rows.W          rows as read by worker W, in runs sorted by row number
//!             state.W.N       state of worker W at part N
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use kilter_core::record::encode_value;
use kilter_pipeline::training_set::{SetPlan, Shard, SpineRow, Step};
use serde::{Deserialize, Serialize};

use super::runs::{Run, RunWriter};
use super::steps::{Job, Position, Sink, Sorted, encode_row};

/// Steps handed over at once, and bundles of them that may wait for a worker.
const BUNDLE: usize = 512;
const QUEUE: usize = 4;

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What must be the same for the job to go on: by name, as a user knows it.
    pub made_of: BTreeMap<String, String>,
    /// The log's end when the job began.
    pub until: u64,
    pub sorted: Option<Sorted>,
    pub position: Position,
    /// Of each worker: the runs of its rows.
    pub parts: Vec<Vec<Run>>,
    /// Number of the last part; 0: none yet.
    pub part: u64,
    /// Whether all steps have been made.
    pub done: bool,
}

impl Manifest {
    fn path(partial: &Path) -> PathBuf {
        partial.join("manifest.json")
    }

    /// None: there is no unfinished job.
    pub fn read(partial: &Path) -> anyhow::Result<Option<Manifest>> {
        let path = Manifest::path(partial);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| anyhow::anyhow!("{} is damaged: {e}\n  hint: begin anew with --restart", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it whole and in one step, so that whoever reads it finds the old one or the new one.
    pub fn write(&self, partial: &Path) -> anyhow::Result<()> {
        let new = partial.join("manifest.new");
        write_durably(&new, &serde_json::to_vec(self)?)?;
        fs::rename(&new, Manifest::path(partial))?;
        sync_folder(partial)?;
        Ok(())
    }
}

pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // Only Unix lets a folder be opened for this.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn rows_path(partial: &Path, worker: usize) -> PathBuf {
    partial.join(format!("rows.{worker}"))
}

fn state_path(partial: &Path, worker: usize, part: u64) -> PathBuf {
    partial.join(format!("state.{worker}.{part}"))
}

/// The files of rows, one per worker.
pub fn row_files(partial: &Path, manifest: &Manifest) -> Vec<(PathBuf, Vec<Run>)> {
    manifest.parts.iter().enumerate().map(|(worker, runs)| (rows_path(partial, worker), runs.clone())).collect()
}

enum Message {
    Steps(Arc<Vec<Step>>),
    /// Finish a part: rows and state on disk.
    Part(u64),
}

/// Makes the steps that are left and writes their rows; the manifest says so at the end.
pub fn work(job: &Job<'_>, manifest: &mut Manifest, threads: usize, progress: &mut dyn FnMut(&Position)) -> anyhow::Result<()> {
    if manifest.parts.is_empty() {
        manifest.parts = vec![Vec::new(); threads];
    }
    let mut workers = Vec::new();
    for worker in 0..threads {
        workers.push(Worker::start(job, manifest, worker, threads)?);
    }
    std::thread::scope(|scope| {
        let (mut queues, mut answers, mut handles) = (Vec::new(), Vec::new(), Vec::new());
        for worker in workers {
            let (queue, messages) = sync_channel(QUEUE);
            let (answer, told) = channel();
            queues.push(queue);
            answers.push(told);
            handles.push(scope.spawn(move || worker.run(messages, answer)));
        }
        let from = manifest.position;
        let sorted = manifest.sorted.clone();
        let mut hand = Hand {
            job,
            manifest,
            queues,
            answers,
            bundle: Vec::new(),
            since: 0,
            last_part: Instant::now(),
            cost: Duration::ZERO,
            progress,
        };
        let made = job.steps(from, sorted.as_ref(), &mut hand).and_then(|()| hand.send_bundle());
        // Closed queues end the workers.
        drop(hand);
        // A worker that failed has the cause; that its queue was closed is only the consequence.
        let ended = handles.into_iter().map(|h| h.join().map_err(|_| anyhow::anyhow!("a worker of the training set panicked"))?);
        let parts = ended.collect::<anyhow::Result<Vec<Vec<Run>>>>()?;
        made?;
        manifest.parts = parts;
        anyhow::Ok(())
    })?;
    manifest.done = true;
    manifest.write(&job.partial)?;
    remove_states(&job.partial, threads, None);
    Ok(())
}

/// Removes states of other parts than `keep`: they are no longer needed.
fn remove_states(partial: &Path, threads: usize, keep: Option<u64>) {
    let Ok(entries) = fs::read_dir(partial) else { return };
    let kept: Vec<PathBuf> = keep.map_or(Vec::new(), |part| (0..threads).map(|w| state_path(partial, w, part)).collect());
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_state = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("state."));
        if is_state && !kept.contains(&path) {
            // One that stays behind costs room and no more.
            let _ = fs::remove_file(path);
        }
    }
}

/// Hands steps to the workers and has parts finished.
struct Hand<'a, 'j> {
    job: &'a Job<'j>,
    manifest: &'a mut Manifest,
    /// One per worker, as are the answers.
    queues: Vec<SyncSender<Message>>,
    answers: Vec<Receiver<Vec<Run>>>,
    bundle: Vec<Step>,
    /// Steps since the last part.
    since: u64,
    last_part: Instant,
    /// How long the last part took.
    cost: Duration,
    progress: &'a mut dyn FnMut(&Position),
}

impl Sink for Hand<'_, '_> {
    fn step(&mut self, step: Step) -> anyhow::Result<()> {
        self.since += 1;
        self.bundle.push(step);
        Ok(())
    }

    fn at(&mut self, position: Position) -> anyhow::Result<()> {
        self.manifest.position = position;
        if self.bundle.len() < BUNDLE {
            return Ok(());
        }
        self.send_bundle()?;
        (self.progress)(&position);
        let limits = &self.job.limits;
        // A large state takes long to write: at most about a tenth of the time goes there.
        if self.since >= limits.part_steps && self.last_part.elapsed() >= limits.part_every.max(10 * self.cost) {
            self.finish_part(position)?;
        }
        Ok(())
    }
}

impl Hand<'_, '_> {
    fn send_bundle(&mut self) -> anyhow::Result<()> {
        if !self.bundle.is_empty() {
            let bundle = Arc::new(std::mem::replace(&mut self.bundle, Vec::with_capacity(BUNDLE + 2)));
            self.send(|| Message::Steps(Arc::clone(&bundle)))?;
        }
        Ok(())
    }

    fn send(&self, message: impl Fn() -> Message) -> anyhow::Result<()> {
        for queue in &self.queues {
            queue.send(message()).map_err(|_| anyhow::anyhow!("a worker of the training set has ended"))?;
        }
        Ok(())
    }

    fn finish_part(&mut self, position: Position) -> anyhow::Result<()> {
        let began = Instant::now();
        let part = self.manifest.part + 1;
        self.send(|| Message::Part(part))?;
        for (runs, answer) in self.manifest.parts.iter_mut().zip(&self.answers) {
            *runs = answer.recv().map_err(|_| anyhow::anyhow!("a worker of the training set has ended"))?;
        }
        self.manifest.part = part;
        self.manifest.position = position;
        self.manifest.write(&self.job.partial)?;
        remove_states(&self.job.partial, self.queues.len(), Some(part));
        self.since = 0;
        self.last_part = Instant::now();
        // Without a pause between parts, as in tests, none is made for their cost either.
        self.cost = if self.job.limits.part_every.is_zero() { Duration::ZERO } else { began.elapsed() };
        Ok(())
    }
}

/// One thread's share of the entities.
struct Worker {
    number: usize,
    set: Arc<SetPlan>,
    shard: Shard,
    rows: RunWriter,
    partial: PathBuf,
    record: Vec<u8>,
}

impl Worker {
    fn start(job: &Job<'_>, manifest: &Manifest, number: usize, of: usize) -> anyhow::Result<Worker> {
        let runs = manifest.parts[number].clone();
        let set = Arc::clone(&job.set);
        let shard = match manifest.part {
            0 => Shard::new(Arc::clone(&set), number as u64, of as u64),
            part => {
                let path = state_path(&job.partial, number, part);
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Shard::restore(Arc::clone(&set), number as u64, of as u64, &bytes)
                    .map_err(|e| anyhow::anyhow!("{}: {e}\n  hint: begin anew with --restart", path.display()))?
            }
        };
        let rows = RunWriter::open(&rows_path(&job.partial, number), runs, job.limits.buffer / of)?;
        Ok(Worker { number, set, shard, rows, partial: job.partial.clone(), record: Vec::new() })
    }

    /// Until there are no more messages; the runs of all its rows.
    fn run(mut self, messages: Receiver<Message>, answer: Sender<Vec<Run>>) -> anyhow::Result<Vec<Run>> {
        for message in messages {
            match message {
                Message::Steps(steps) => {
                    for step in steps.iter() {
                        match step {
                            Step::Event(event) => self.shard.feed(event),
                            Step::Row(row) => self.read(row)?,
                        }
                    }
                }
                Message::Part(part) => {
                    let runs = self.rows.sync()?;
                    write_durably(&state_path(&self.partial, self.number, part), &self.shard.snapshot())?;
                    // Nobody listens any more only when the job has failed elsewhere.
                    let _ = answer.send(runs);
                }
            }
        }
        Ok(self.rows.sync()?)
    }

    /// A record of a row: from the first worker its own columns, from each the values of the views whose entity falls to it.
    fn read(&mut self, row: &SpineRow) -> std::io::Result<()> {
        let record = &mut self.record;
        record.clear();
        if self.number == 0 {
            encode_row(row, record);
        }
        let start = record.len();
        self.shard.read(row, |view, values| {
            record.extend_from_slice(&(view as u16).to_le_bytes());
            values.iter().for_each(|value| encode_value(value, record));
        });
        debug_assert!(self.set.views().count() < usize::from(u16::MAX));
        if self.number == 0 || record.len() > start {
            self.rows.push((0, row.number), &self.record)?;
        }
        Ok(())
    }
}
