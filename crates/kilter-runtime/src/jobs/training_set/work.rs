//! From steps to what is known of each row, on disk: the steps are divided among parts of the entities, the parts are worked through by threads.
//!
//! ```text
//! OUT.partial/manifest.json   what the job is, how far it has come
//!             events.sorted   events by the moment they became known (event time)
//!             spine.sorted    rows by time
//!             spine           rows by number
//!             parts           events and moments to be read at, by part of the entities
//!             parts.json      where each part lies in it
//!             read.W          what worker W knows of rows, in runs sorted by row number
//! ```
//! Only the state of the parts at hand is in memory. One that outgrows its share of it is divided further, and read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

use anyhow::Context;
use kilter_core::record::{Cursor, encode_value};
use kilter_core::{Event, EventTime, Operation, SourceId, Value};
use kilter_pipeline::training_set::{Part, Range, Router, Shard, SpineRow, Step};
use serde::{Deserialize, Serialize};

use super::runs::{Run, RunWriter};
use super::spill::{Segments, SpillReader, SpillWriter};
use super::steps::{Job, Position, Sink, Sorted, encode_row};

/// Steps handed over at once, and bundles of them that may wait.
const BUNDLE: usize = 512;
const QUEUE: usize = 8;
/// More parts would have buffers too small for a disk.
const MOST_PARTS: u64 = 512;
/// Records of a part between two looks at its size, at most; fewer where there is room for fewer, at so many bytes of state each.
const LOOK_EVERY: usize = 4096;
const RECORD_STATE: usize = 256;

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What must be the same for the job to go on: by name, as a user knows it.
    pub made_of: BTreeMap<String, String>,
    /// The log's end when the job began.
    pub until: u64,
    pub sorted: Option<Sorted>,
    pub position: Position,
    /// The rows themselves, once all steps have been divided among the parts of the entities.
    pub spine: Option<Vec<Run>>,
    /// Parts that have been worked through, by position.
    pub finished: BTreeSet<usize>,
    /// How many there are.
    pub parts: usize,
    /// How often a part had to be divided.
    pub divided: u64,
    /// Of each worker: the runs of what it has read.
    pub read: Vec<Vec<Run>>,
}

/// A manifest on its way in or out: what lies beside it is of no use, and ours to remove.
const MARK: &str = "manifest.new";

/// The folder of unfinished work, made if need be, and what an interrupted job has left there to go on from.
///
/// # Errors
/// When a folder of that name is somebody else's.
pub fn enter(partial: &Path, restart: bool) -> anyhow::Result<Option<Manifest>> {
    fs::create_dir_all(partial)?;
    let begun = Manifest::path(partial).exists();
    anyhow::ensure!(
        begun || partial.join(MARK).exists() || fs::read_dir(partial)?.next().is_none(),
        "{} is no unfinished training set, and stands where one would be\n  hint: name another file, or remove that folder",
        partial.display()
    );
    if restart || !begun {
        clear(partial)?;
    }
    Manifest::read(partial)
}

/// Empties the folder of unfinished work. Interrupted at any point, it is still known as ours, and as of no use.
pub fn clear(partial: &Path) -> anyhow::Result<()> {
    let (manifest, mark) = (Manifest::path(partial), partial.join(MARK));
    if manifest.exists() {
        fs::rename(&manifest, &mark)?;
        sync_folder(partial)?;
    }
    for entry in fs::read_dir(partial)? {
        let path = entry?.path();
        if path != mark {
            fs::remove_file(path)?;
        }
    }
    if mark.exists() {
        fs::remove_file(mark)?;
    }
    Ok(())
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
        let new = partial.join(MARK);
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

const SPINE: &str = "spine";
const PARTS: &str = "parts";
const SEGMENTS: &str = "parts.json";

fn read_path(partial: &Path, worker: usize) -> PathBuf {
    partial.join(format!("read.{worker}"))
}

/// The files of rows: the spine, then what each worker read.
pub fn row_files(partial: &Path, manifest: &Manifest) -> Vec<(PathBuf, Vec<Run>)> {
    let spine = (partial.join(SPINE), manifest.spine.clone().unwrap_or_default());
    let read = manifest.read.iter().enumerate().map(|(worker, runs)| (read_path(partial, worker), runs.clone()));
    std::iter::once(spine).chain(read).collect()
}

/// About as many parts as keep each one's state small, so that it lies in the processor's caches.
fn router(job: &Job<'_>, manifest: &Manifest) -> Router {
    let parts = (manifest.until / job.limits.part_records.max(1)).clamp(1, MOST_PARTS);
    Router::new(Arc::clone(&job.set), parts as u32)
}

/// Makes all steps and divides them among the parts; the manifest says so at the end.
pub fn divide(job: &Job<'_>, manifest: &mut Manifest, progress: &mut dyn FnMut(&Position)) -> anyhow::Result<()> {
    let router = router(job, manifest);
    manifest.parts = router.parts().len();
    let (queue, bundles) = sync_channel(QUEUE);
    let mut hand = Hand { queue, bundle: Vec::with_capacity(BUNDLE + 2), position: Position::default(), steps: 0, progress };
    let (spine, segments) = std::thread::scope(|scope| {
        let divider = scope.spawn(move || Divider::new(job, router)?.run(bundles));
        let made = job.steps(Position::default(), manifest.sorted.as_ref(), &mut hand).and_then(|()| hand.send());
        manifest.position = hand.position;
        // A closed queue ends the divider.
        drop(hand);
        // When it failed it has the cause; that its queue was closed is only the consequence.
        let divided = divider.join().map_err(|_| anyhow::anyhow!("a thread of the training set panicked"))??;
        made.map(|()| divided)
    })?;
    write_durably(&job.partial.join(SEGMENTS), &serde_json::to_vec(&segments)?)?;
    manifest.spine = Some(spine);
    manifest.write(&job.partial)?;
    // They cost room only.
    job.remove_sorted();
    progress(&manifest.position);
    Ok(())
}

/// Hands steps over in bundles.
struct Hand<'a> {
    queue: SyncSender<Vec<Step>>,
    bundle: Vec<Step>,
    position: Position,
    steps: u64,
    progress: &'a mut dyn FnMut(&Position),
}

impl Sink for Hand<'_> {
    fn step(&mut self, step: Step) -> anyhow::Result<()> {
        self.bundle.push(step);
        self.steps += 1;
        Ok(())
    }

    fn at(&mut self, position: Position) -> anyhow::Result<()> {
        self.position = position;
        if self.bundle.len() >= BUNDLE {
            self.send()?;
            if (self.steps / BUNDLE as u64).is_multiple_of(16) {
                (self.progress)(&position);
            }
        }
        Ok(())
    }
}

impl Hand<'_> {
    fn send(&mut self) -> anyhow::Result<()> {
        let bundle = std::mem::replace(&mut self.bundle, Vec::with_capacity(BUNDLE + 2));
        self.queue.send(bundle).map_err(|_| anyhow::anyhow!("a thread of the training set has ended"))
    }
}

/// Writes each step to the parts that it concerns.
struct Divider {
    router: Router,
    /// Position of the first part of each group.
    first: Vec<usize>,
    spine: RunWriter,
    parts: SpillWriter,
    record: Vec<u8>,
}

impl Divider {
    fn new(job: &Job<'_>, router: Router) -> anyhow::Result<Divider> {
        let all = router.parts();
        let groups = all.iter().map(|part| part.group + 1).max().unwrap_or(0);
        let first = (0..groups).map(|group| all.iter().position(|part| part.group == group).unwrap_or(0)).collect();
        // What an interrupted run had divided is divided anew.
        let spine = RunWriter::open(&job.partial.join(SPINE), Vec::new(), job.limits.buffer / 2)?;
        let parts = SpillWriter::create(&job.partial.join(PARTS), all.len(), job.limits.buffer)?;
        Ok(Divider { router, first, spine, parts, record: Vec::new() })
    }

    fn run(mut self, bundles: Receiver<Vec<Step>>) -> anyhow::Result<(Vec<Run>, Segments)> {
        for step in bundles.into_iter().flatten() {
            match step {
                Step::Event(event) => self.event(&event)?,
                Step::Row(row) => self.row(&row)?,
            }
        }
        Ok((self.spine.sync()?, self.parts.finish()?))
    }

    fn event(&mut self, event: &Event) -> std::io::Result<()> {
        let Divider { router, first, parts, record, .. } = self;
        record.clear();
        let mut result = Ok(());
        router.event(event, |part, before| {
            if record.is_empty() {
                encode_event(event, record);
            }
            let pushed = parts.push(first[part.group] + part.number as usize, |out| {
                out.push(if before.is_some() { LATE_EVENT } else { EVENT });
                before.iter().for_each(|time| out.extend_from_slice(&time.0.to_le_bytes()));
                out.extend_from_slice(record);
            });
            if pushed.is_err() {
                result = pushed;
            }
        });
        result
    }

    fn row(&mut self, row: &SpineRow) -> std::io::Result<()> {
        encode_row(row, &mut self.record);
        self.spine.push((0, row.number), &self.record)?;
        let Divider { router, first, parts, .. } = self;
        let mut result = Ok(());
        router.row(row, |part, watermarks| {
            let pushed = parts.push(first[part.group] + part.number as usize, |out| {
                out.push(ROW);
                out.extend_from_slice(&row.number.to_le_bytes());
                out.extend_from_slice(&row.time.0.to_le_bytes());
                out.extend_from_slice(&(watermarks.len() as u32).to_le_bytes());
                watermarks.iter().for_each(|w| out.extend_from_slice(&w.map_or(i64::MIN, |w| w.0).to_le_bytes()));
                router.key(part.group).iter().for_each(|column| encode_value(&row.row[*column], out));
            });
            if pushed.is_err() {
                result = pushed;
            }
        });
        result
    }
}

/// What the first byte of a part's record tells.
const EVENT: u8 = 0;
const LATE_EVENT: u8 = 1;
const ROW: u8 = 2;

/// As much of an event as a view reads.
fn encode_event(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(&event.source.0.to_le_bytes());
    out.push(u8::from(event.operation == Operation::Delete));
    out.extend_from_slice(&event.offset.to_le_bytes());
    out.extend_from_slice(&event.time.0.to_le_bytes());
    out.extend_from_slice(&(event.row.len() as u32).to_le_bytes());
    event.row.iter().for_each(|value| encode_value(value, out));
}

fn decode_event(cursor: &mut Cursor<'_>) -> anyhow::Result<Event> {
    let source = SourceId(cursor.u16()?);
    let operation = if cursor.u8()? == 1 { Operation::Delete } else { Operation::Upsert };
    let (offset, time) = (cursor.u64()?, EventTime(cursor.i64()?));
    let row = (0..cursor.u32()?).map(|_| cursor.value()).collect::<Result<_, _>>()?;
    Ok(Event { source, offset, time, arrived: time, id: None, operation, row, extra: None, origin: None })
}

/// Works through the parts that are left; the manifest says what is finished.
pub fn read(job: &Job<'_>, manifest: &mut Manifest, threads: usize, progress: &mut dyn FnMut(usize, usize)) -> anyhow::Result<()> {
    let router = router(job, manifest);
    let parts = router.parts();
    let path = job.partial.join(SEGMENTS);
    let segments: Segments = serde_json::from_slice(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?)
        .map_err(|e| anyhow::anyhow!("{} is damaged: {e}\n  hint: begin anew with --restart", path.display()))?;
    let left: Vec<usize> = (0..parts.len()).filter(|part| !manifest.finished.contains(part)).collect();
    let next = AtomicUsize::new(0);
    manifest.read.resize(threads.max(manifest.read.len()), Vec::new());
    std::thread::scope(|scope| {
        let (answer, told) = channel();
        let handles: Vec<_> = (0..threads)
            .map(|number| {
                let runs = manifest.read[number].clone();
                let (router, parts, segments, left, next, answer) = (&router, &parts, &segments, &left, &next, answer.clone());
                scope.spawn(move || -> anyhow::Result<()> {
                    let rows = RunWriter::open(&read_path(&job.partial, number), runs, job.limits.buffer / threads)?;
                    let most = job.limits.state / threads;
                    let mut worker = Worker { number, job, router, parts, segments, most, rows, record: Vec::new(), width: 0 };
                    worker.run(left, next, &answer)
                })
            })
            .collect();
        drop(answer);
        let mut done = manifest.finished.len();
        for message in told {
            match message {
                Message::Read => {
                    done += 1;
                    progress(done, parts.len());
                }
                Message::Divided => manifest.divided += 1,
                Message::Kept { worker, runs, finished } => {
                    manifest.read[worker] = runs;
                    manifest.finished.extend(finished);
                    manifest.write(&job.partial)?;
                }
            }
        }
        handles.into_iter().try_for_each(|h| h.join().map_err(|_| anyhow::anyhow!("a worker of the training set panicked"))?)
    })?;
    // The parts cost room only.
    let _ = fs::remove_file(job.partial.join(PARTS));
    Ok(())
}

enum Message {
    /// One more part has been worked through.
    Read,
    /// One took more memory than there is.
    Divided,
    /// What was read of some parts is on disk for good.
    Kept { worker: usize, runs: Vec<Run>, finished: Vec<usize> },
}

/// One thread, with one part at a time.
struct Worker<'a> {
    number: usize,
    job: &'a Job<'a>,
    router: &'a Router,
    parts: &'a [Part],
    segments: &'a Segments,
    /// Bytes of state.
    most: usize,
    rows: RunWriter,
    record: Vec<u8>,
    /// Columns of a row up to the last of the key at hand.
    width: usize,
}

impl Worker<'_> {
    /// Takes one part after the other until none is left.
    fn run(&mut self, left: &[usize], next: &AtomicUsize, answer: &Sender<Message>) -> anyhow::Result<()> {
        let (mut finished, mut kept) = (Vec::new(), Instant::now());
        while let Some(&place) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut ranges = vec![Range::ALL];
            while let Some(range) = ranges.pop() {
                if !self.part(place, range)? {
                    let _ = answer.send(Message::Divided);
                    // What was read of it so far is read once more, to the same values.
                    ranges.extend(range.halves().into_iter().flatten());
                }
            }
            finished.push(place);
            // Nobody listens any more only when the job has failed elsewhere.
            let _ = answer.send(Message::Read);
            if kept.elapsed() >= self.job.limits.part_every {
                self.keep(&mut finished, answer)?;
                kept = Instant::now();
            }
        }
        self.keep(&mut finished, answer)
    }

    fn keep(&mut self, finished: &mut Vec<usize>, answer: &Sender<Message>) -> anyhow::Result<()> {
        let message = Message::Kept { worker: self.number, runs: self.rows.sync()?, finished: std::mem::take(finished) };
        let _ = answer.send(message);
        Ok(())
    }

    /// Feeds and reads one part as far as the range goes; false: its state takes more memory than there is, and it has to be divided.
    fn part(&mut self, place: usize, range: Range) -> anyhow::Result<bool> {
        let part = self.parts[place];
        let key = self.router.key(part.group);
        self.width = key.iter().max().map_or(0, |last| last + 1);
        let mut shard = self.router.shard(part, range);
        let mut reader = SpillReader::open(&self.job.partial.join(PARTS), self.segments, place)?;
        let look_every = (self.most / RECORD_STATE).clamp(1, LOOK_EVERY);
        let mut records = 0usize;
        while let Some(bytes) = reader.next()? {
            let mut cursor = Cursor::new(bytes);
            match cursor.u8()? {
                EVENT => shard.feed(&decode_event(&mut cursor)?, None),
                LATE_EVENT => {
                    let before = EventTime(cursor.i64()?);
                    shard.feed(&decode_event(&mut cursor)?, Some(before));
                }
                _ => self.row(&mut shard, key, &mut cursor)?,
            }
            records += 1;
            if records.is_multiple_of(look_every) {
                let (bytes, divisible) = shard.size();
                if bytes > self.most && divisible && range.halves().is_some() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A record of a row: the values of each view whose entity is in this part.
    fn row(&mut self, shard: &mut Shard, key: &[usize], cursor: &mut Cursor<'_>) -> anyhow::Result<()> {
        let (number, time) = (cursor.u64()?, EventTime(cursor.i64()?));
        let watermarks = (0..cursor.u32()?)
            .map(|_| Ok(Some(cursor.i64()?).filter(|w| *w != i64::MIN).map(EventTime)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut row = vec![Value::Null; self.width];
        for column in key {
            row[*column] = cursor.value()?;
        }
        let record = &mut self.record;
        record.clear();
        shard.read(&SpineRow { number, time, row }, &watermarks, |view, values| {
            record.extend_from_slice(&(view as u16).to_le_bytes());
            values.iter().for_each(|value| encode_value(value, record));
        });
        if !record.is_empty() {
            self.rows.push((0, number), record)?;
        }
        Ok(())
    }
}
