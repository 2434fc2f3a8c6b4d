//! The feature engine in process, without log and HTTP: JSON bytes in, features updated and read. Prints one line of JSON a run.
//!
//!   kilter-features-harness generate FILE --events N --entities E --seed S
//!   kilter-features-harness run      FILE --set a|b|wide --threads T [--answers yes] [--limit N]
//!   kilter-features-harness read     FILE --set a|b|wide|wide_b --reads N [--limit N]
//!   kilter-features-harness values   FILE --set a|b --keys 17,4711 [--limit N]
//!   kilter-features-harness spill    FOLDER --set a|b --entities E --events N --memory MIB [--progress yes]
//!   kilter-features-harness restart  FOLDER --set a|b --entities N --events N --memory MIB [--progress yes]
//!
//! run:    bodies of NDJSON are decoded by `decode_body` and every row goes through `Engine::update`. With several threads the events are
//!         partitioned by a hash of their key beforehand, and each thread has its own engine and decodes its own bodies: what an engine
//!         in shards would do, which Kilter does not have yet.
//! read:   the same, then reads of one entity's features, each timed; entities as likely as in the events.
//! restart: N entities in a store, N in a snapshot, and how soon they answer again, see restart.rs.
//! spill:  entities beyond memory, see spill.rs.
//! values: the same, then the features of some entities, for a comparison with another engine's.

mod generate;
mod measure;
mod restart;
mod spill;
mod views;

use measure::Input;

/// The allocator of the program that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, file, rest @ ..] = args.as_slice() else {
        fail("usage: kilter-features-harness generate|run|read|values|spill|restart FILE ...")
    };
    let options = Options::parse(rest);
    let report = match mode.as_str() {
        "generate" => generate::generate(file, &options),
        "run" => measure::run(Input::read(file, &options), &options),
        "read" => measure::read(Input::read(file, &options), &options),
        "values" => measure::values(Input::read(file, &options), &options),
        "spill" => spill::spill(file, &options),
        "restart" => restart::restart(file, &options),
        other => fail(&format!("unknown mode {other}: generate, run, read, values, spill or restart")),
    };
    println!("{report}");
}

pub struct Options {
    pub events: u64,
    pub entities: u64,
    pub seed: u64,
    pub set: String,
    pub threads: usize,
    /// Events taken from the file; 0: all.
    pub limit: usize,
    /// A read after each event.
    pub answers: bool,
    pub reads: usize,
    pub keys: Vec<i64>,
    /// MiB that state may take.
    pub memory: u64,
    pub progress: bool,
}

impl Options {
    fn parse(args: &[String]) -> Options {
        let mut options = Options {
            events: 5_000_000,
            entities: 1_000_000,
            seed: 7,
            set: "a".into(),
            threads: 1,
            limit: 0,
            answers: false,
            reads: 200_000,
            keys: Vec::new(),
            memory: 1024,
            progress: false,
        };
        for pair in args.chunks(2) {
            let [name, value] = pair else { fail(&format!("{} needs a value", pair[0])) };
            let number = || value.parse::<u64>().unwrap_or_else(|_| fail(&format!("{name} needs a whole number, not {value}")));
            match name.as_str() {
                "--events" => options.events = number(),
                "--entities" => options.entities = number().max(1),
                "--seed" => options.seed = number(),
                "--set" => options.set = value.clone(),
                "--threads" => options.threads = number().max(1) as usize,
                "--limit" => options.limit = number() as usize,
                "--memory" => options.memory = number(),
                "--progress" => options.progress = value == "yes",
                "--answers" => options.answers = value == "yes",
                "--reads" => options.reads = number().max(1) as usize,
                "--keys" => {
                    let key = |text: &str| text.parse().unwrap_or_else(|_| fail(&format!("--keys: {text} is no account")));
                    options.keys = value.split(',').map(key).collect();
                }
                _ => fail(&format!("unknown option {name}")),
            }
        }
        options
    }
}

pub fn fail(message: &str) -> ! {
    eprintln!("kilter-features-harness: {message}");
    std::process::exit(2);
}
