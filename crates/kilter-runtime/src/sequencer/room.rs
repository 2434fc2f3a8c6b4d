//! Whether the machine has room for the state as it grows: a project that does not limit it is told before the system ends the process.

/// The share of the machine's memory from which on it is told: a snapshot takes about as much as the state again, for a moment.
const MUCH: f64 = 0.4;
const GIB: f64 = (1u64 << 30) as f64;

/// What has been told, so that it is told once.
#[derive(Default)]
pub(super) struct Room {
    told: bool,
}

impl Room {
    /// Called before a snapshot, when the state of all entities is in memory.
    pub fn look(&mut self) {
        if !self.told
            && let Some(advice) = bytes_of_process().zip(bytes_of_machine()).and_then(|(used, all)| advice(used, all))
        {
            self.told = true;
            tracing::warn!("{advice}");
        }
    }
}

/// What to say of so many bytes in use, if anything.
fn advice(used: u64, all: u64) -> Option<String> {
    (used as f64 > all as f64 * MUCH).then(|| {
        format!(
            "this process has {:.1} GiB of the {:.1} GiB of memory here, and a snapshot takes about as much as the state again for a moment\n  \
             hint: `[state] memory = \"{}MiB\"` keeps entities that are not in use on disk",
            used as f64 / GIB,
            all as f64 / GIB,
            (all >> 20) / 4
        )
    })
}

/// What this process has in memory; nothing where the system does not tell.
fn bytes_of_process() -> Option<u64> {
    bytes_in(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What the machine has, or the control group that the process is in.
fn bytes_of_machine() -> Option<u64> {
    let machine = bytes_in(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    // `max` where the group has no limit.
    let group: Option<u64> = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(group.map_or(machine, |limit| limit.min(machine)))
}

/// The figure of a line such as `VmRSS:     1234 kB`, in bytes.
fn bytes_in(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_system_are_read() {
        assert_eq!(bytes_in("VmPeak:\t 9 kB\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234 * 1024));
        assert_eq!(bytes_in("VmRSS:\t1234\n", "VmRSS:"), None);
        assert_eq!(bytes_in("", "VmRSS:"), None);
        if cfg!(target_os = "linux") {
            let (used, all) = (bytes_of_process().unwrap(), bytes_of_machine().unwrap());
            assert!(used > 0 && used < all, "{used} of {all}");
        }
    }

    #[test]
    fn two_fifths_of_the_memory_are_worth_a_word() {
        assert_eq!(advice(6 << 30, 16 << 30), None);
        let advice = advice(7 << 30, 16 << 30).unwrap();
        assert!(advice.starts_with("this process has 7.0 GiB of the 16.0 GiB of memory here"), "{advice}");
        assert!(advice.contains("memory = \"4096MiB\""), "{advice}");
    }
}
