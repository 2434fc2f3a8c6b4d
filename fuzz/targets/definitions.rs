//! A `kilter.toml`: a project, or complaints that can be shown.
#![no_main]

use std::path::Path;

use kilter_runtime::project::{FILE_NAME, check_text, graph, objects};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A folder that is not there: no file of this machine has a part in the result.
    match check_text(text, FILE_NAME, Path::new("/nonexistent/kilter-fuzz")) {
        Err(report) => {
            assert!(report.errors() > 0);
            let _ = report.to_string();
            for problem in &report.problems {
                assert!(problem.line <= text.lines().count() + 1, "{problem:?}");
            }
        }
        Ok(project) => {
            let _ = graph(&project);
            assert!(!objects(&project).is_empty() || project.plan.sources.is_empty());
            let again = check_text(text, FILE_NAME, Path::new("/nonexistent/kilter-fuzz")).expect("it was one a moment ago");
            assert_eq!(project.hash(), again.hash());
        }
    }
});
