//! `kilter check`: everything that is wrong with the definitions, or what they come to.

use std::path::Path;
use std::process::ExitCode;

use kilter_runtime::project;

#[derive(clap::Args)]
pub struct Args {
    /// Only say whether the definitions hold.
    #[arg(short, long)]
    quiet: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let result = project::load(dir);
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
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
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
            Ok(ExitCode::SUCCESS)
        }
        Err(report) => {
            eprintln!("{report}");
            Ok(ExitCode::FAILURE)
        }
    }
}
