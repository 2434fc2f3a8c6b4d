//! Threads that the machine should run before all others.
//!
//! A decision goes through some four threads, and each may wait for a core that something else computes on: a few milliseconds now and then, whatever its
//! niceness, since a scheduler that is fair lets a turn end. Linux has the policy SCHED_RR for those that must not wait (sched(7)). It takes a privilege, and
//! whoever has it can keep everything else from running, so nobody gets it unasked.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on [`run_first`] does what it says. The calling thread goes first as well.
///
/// # Errors
/// When this process may not, or the system has no such policy.
pub fn allow_running_first() -> io::Result<()> {
    real_time()?;
    ASKED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Has the calling thread run before those of other policies, where that was asked for. Threads that it starts are ordinary ones.
pub fn run_first() {
    if ASKED.load(Ordering::Relaxed)
        && let Err(error) = real_time()
    {
        tracing::warn!(%error, "a thread that decisions wait for has to wait for others");
    }
}

#[cfg(target_os = "linux")]
fn real_time() -> io::Result<()> {
    // Above all that is not real-time, below all that is.
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the parameter outlives the call. The system call itself, since musl's function only says that it is not there.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const lowest) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn real_time() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The policy of the calling thread, without the flag for the threads that it starts.
    fn policy() -> i32 {
        // SAFETY: 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn threads_go_first_once_that_is_asked_for_and_hand_nothing_on() {
        let policy_after_running_first = || {
            run_first();
            policy()
        };
        assert_eq!(std::thread::spawn(policy_after_running_first).join().unwrap(), libc::SCHED_OTHER, "nobody asked");
        let (of_asker, of_child) = std::thread::spawn(|| {
            let asked = allow_running_first().map(|()| policy());
            (asked, std::thread::spawn(policy).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(of_child, libc::SCHED_OTHER);
        let expected = match of_asker {
            Ok(policy) => policy,
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
                libc::SCHED_OTHER
            }
        };
        assert_eq!(std::thread::spawn(policy_after_running_first).join().unwrap(), expected);
    }
}
