//! Which process started a run, so that runs of dead processes can be told from those still at work.
//!
//! A process id alone is used again by the system; together with the boot and the start time it is not.

use std::fs;

/// `boot/pid/start` of this process.
pub(super) fn this_process() -> String {
    let pid = std::process::id();
    format!("{}/{pid}/{}", boot(), started(pid).unwrap_or_default())
}

/// Whether the process that [`this_process`] described still runs. Where the system does not tell (no `/proc`), only
/// this very process counts as alive.
pub(super) fn is_alive(owner: &str) -> bool {
    if owner == this_process() {
        return true;
    }
    let mut parts = owner.split('/');
    let (Some(on_boot), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next()) else { return false };
    on_boot == boot() && pid.parse().ok().and_then(started).is_some_and(|s| s == start)
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Start time of a process in clock ticks since boot: field 22 of its stat line, where the name in brackets may hold
/// spaces. None for a process that is gone or waits only to be collected.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_is_gone() {
        assert!(is_alive(&this_process()));
        let Ok(mut child) = std::process::Command::new("sleep").arg("60").spawn() else { return };
        let owner = format!("{}/{}/{}", boot(), child.id(), started(child.id()).unwrap());
        assert!(is_alive(&owner));
        assert!(!is_alive(&format!("{}/{}/1", boot(), child.id())), "a later process of the same number");
        assert!(!is_alive(&format!("other-boot/{}/{}", child.id(), started(child.id()).unwrap())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&owner));
        assert!(!is_alive(""));
    }
}
