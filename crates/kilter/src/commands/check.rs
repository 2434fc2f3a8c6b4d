//! `kilter check`: everything that is wrong with the definitions, or what they come to.

use std::path::Path;
use std::process::ExitCode;

use kilter_kafka::{Finding, SchemaFinding};
use kilter_runtime::project::{self, Diagnostic, Project, Report, Severity};

#[derive(clap::Args)]
pub struct Args {
    /// Only say whether the definitions hold.
    #[arg(short, long)]
    quiet: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
    /// Also ask the Kafka brokers for the topics of sources and sinks, and the schema registry whether the columns can be read of their records.
    #[arg(long)]
    connect: bool,
}

/// Schemas in files are read by what reads records, which the project knows nothing of.
fn with_sound_schemas(project: Project) -> Result<Project, Report> {
    let problems: Vec<Diagnostic> = kilter_kafka::schema_problems(&project).into_iter().map(of_schema).collect();
    if problems.is_empty() { Ok(project) } else { Err(Report { problems }) }
}

fn of_schema(message: String) -> Diagnostic {
    let hint = Some("a path is relative to the project's folder".to_owned());
    Diagnostic {
        severity: Severity::Error,
        code: "bad_schema",
        message,
        hint,
        file: project::FILE_NAME.to_owned(),
        line: 0,
        column: 0,
        length: 0,
        excerpt: String::new(),
    }
}

pub fn run(dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let result = project::load(dir).and_then(with_sound_schemas);
    if args.json {
        let problems = match &result {
            Ok(project) => project.warnings.clone(),
            Err(report) => report.problems.clone(),
        };
        let mut answer = serde_json::json!({ "ok": result.is_ok(), "problems": problems });
        if let Ok(project) = &result {
            answer["definitions"] = serde_json::json!(project.plan.hash);
            answer["objects"] = serde_json::to_value(project::objects(project))?;
        }
        let mut sound = result.is_ok();
        if let (true, Ok(project)) = (args.connect, &result) {
            let topics = kilter_kafka::check(project)?;
            sound = topics.iter().all(Finding::is_sound);
            answer["ok"] = sound.into();
            answer["topics"] = serde_json::to_value(topics)?;
        }
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match result {
        Ok(project) => {
            for warning in &project.warnings {
                println!("{warning}");
            }
            if !args.quiet {
                println!("{}", project::graph(&project));
            }
            println!("the definitions hold (hash {})", &project.plan.hash[..16.min(project.plan.hash.len())]);
            let topics = if args.connect { kilter_kafka::check(&project)? } else { Vec::new() };
            for Finding { of, topic, partitions, problem, schema, .. } in &topics {
                match (problem, partitions) {
                    (Some(problem), _) => println!("{of}: topic \"{topic}\": {problem}"),
                    (None, partitions) => println!("{of}: topic \"{topic}\", {partitions} partitions"),
                }
                if let Some(SchemaFinding { schema, missing, problems }) = schema {
                    println!("{of}: {schema}");
                    problems.iter().for_each(|problem| println!("{of}: {problem}"));
                    missing.iter().for_each(|column| println!("{of}: the schema does not have {column}, which is null then"));
                }
            }
            Ok(if topics.iter().all(Finding::is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(report) => {
            eprintln!("{report}");
            Ok(ExitCode::FAILURE)
        }
    }
}
