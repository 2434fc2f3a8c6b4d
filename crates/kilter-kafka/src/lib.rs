//! Kafka topics as sources and sinks.
//!
//! The event log stays the truth: a topic's records are copied into it, each with its partition and offset, and everything else follows from there, in the order
//! of the log. Sinks follow the decision log and the dead letters. So a crash anywhere leaves two questions, each with one answer: how far a topic has been
//! taken (what the log says), and how far a sink has come (what was delivered, kept with Kafka and beside the logs).
//! See `docs/decisions/0030-kafka-through-the-log.md`.
//!
//! `source` reads, `formats` makes rows of records, `sink` writes (through `outgoing`), `check` looks whether what the definitions name is there. `worker`, `journal`,
//! `reader`, `bundles` and `repartition` are for projects that several processes share.

mod bundles;
mod check;
mod client;
mod control;
mod formats;
mod journal;
mod outgoing;
mod reader;
mod repartition;
mod sink;
mod source;
mod standby;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::Service;

pub use check::{Finding, SchemaFinding, check};
pub use formats::schema_problems;
pub use worker::{Worker, WorkerOptions};

/// How a decision is written as JSON: as the HTTP API gives it.
pub type DecisionJson = fn(&Decision, &Layout) -> Vec<u8>;

/// The threads that read topics and write to them.
pub struct Running {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts reading the sources' topics and feeding the sinks.
///
/// # Errors
/// Settings that the client library does not take, an environment variable that is not set, or a file with a schema that cannot be read. Brokers that do not answer are waited for.
pub fn start(service: &Arc<Service>, decision_json: DecisionJson) -> anyhow::Result<Running> {
    start_with(service, decision_json, None, &tokio::runtime::Handle::current())
}

/// `shared`: the consumer of a worker; none: one of its own.
fn start_with(
    service: &Arc<Service>,
    decision_json: DecisionJson,
    shared: Option<&source::Consumer>,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<Running> {
    let stopping = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let project = &service.project;
    let Some(kafka) = &project.definitions.kafka else { return Ok(Running { stopping, threads }) };
    let client = client::Settings::new(kafka, &project.plan.project)?;
    let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| -> anyhow::Result<()> {
        threads.push(std::thread::Builder::new().name(name.clone()).spawn(run).with_context(|| format!("no thread for {name}"))?);
        Ok(())
    };
    // Without a source of it now there may be one after a change of definitions.
    let consumer = shared.cloned().map_or_else(|| source::Consumer::new(&client), Ok)?;
    let formats = source::Formats::new(formats::registry(project)?);
    if let Some(problem) = schema_problems(project).into_iter().next() {
        anyhow::bail!(problem);
    }
    let reading = (Arc::clone(service), runtime.clone(), Arc::clone(&stopping));
    spawn("kafka".into(), Box::new(move || source::run(&consumer, formats, &reading.0, &reading.1, &reading.2)))?;
    for (name, def) in project.definitions.sink.iter() {
        let sink = sink::Sink::new(service, &client, name, def, decision_json)?;
        let (runtime, stopping) = (runtime.clone(), Arc::clone(&stopping));
        spawn(format!("sink {name}"), Box::new(move || sink.run(&runtime, &stopping)))?;
    }
    Ok(Running { stopping, threads })
}

impl Running {
    /// Ends reading and writing; what is under way is finished.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that spoke to Kafka panicked");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
