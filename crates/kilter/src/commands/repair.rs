//! `kilter repair`: a log that is damaged in its middle is refused; this keeps what lies before the damage.

use std::path::Path;

use kilter_store::log::{Log, LogOptions, OnDamage};

use crate::api::load;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(dir: &Path, _args: Args) -> anyhow::Result<()> {
    let project = load(dir)?;
    let data = project.data_dir();
    for name in ["events", "decisions", "dead-letters"] {
        let folder = data.join(name);
        if !folder.exists() {
            continue;
        }
        let options =
            LogOptions { segment_bytes: project.settings.log.segment_bytes, on_damage: OnDamage::SetAside, ..LogOptions::default() };
        let (log, recovery) = Log::open(&folder, options)?;
        match recovery.truncated_reason {
            Some(reason) => println!(
                "{}: {} bytes set aside ({reason}); the log goes on at offset {}",
                folder.display(),
                recovery.truncated_bytes,
                recovery.next_offset
            ),
            None => println!("{}: whole, {} records", folder.display(), recovery.next_offset - log.start_offset()),
        }
    }
    Ok(())
}
