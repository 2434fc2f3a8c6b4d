//! `kilter new`: a project folder from a template.

use std::path::PathBuf;

use kilter_runtime::project::{TEMPLATES, new_project};

#[derive(clap::Args)]
pub struct Args {
    /// The folder to make; its name becomes the project's.
    folder: PathBuf,
    /// credit-risk, card-fraud or blank.
    #[arg(long, default_value = "blank")]
    template: String,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if !TEMPLATES.iter().any(|t| t.name == args.template) {
        let names: Vec<&str> = TEMPLATES.iter().map(|t| t.name).collect();
        let hint = match kilter_core::nearest(&args.template, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", names.join(", ")),
        };
        anyhow::bail!("there is no template `{}`\n  hint: {hint}", args.template);
    }
    let files = new_project(&args.folder, &args.template)?;
    for file in files {
        println!("wrote {}", file.display());
    }
    println!("\nnext:\n  kilter -C {0} check\n  kilter -C {0} up", args.folder.display());
    Ok(())
}
