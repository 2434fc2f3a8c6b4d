//! Which threads the machine runs first, and where.
//!
//! A decision goes through some four threads, and each may wait for a core that something else computes on: a few milliseconds now and then, whatever its
//! niceness, since a scheduler that is fair lets a turn end. Threads therefore say what they are for. [`decides`]: decisions wait for it. [`computes`]: it computes for
//! long, and may wait. Two things follow:
//! - While both kinds have something to do, and decisions do not need every core, each kind keeps to cores of its own (the module `cores`).
//! - Linux has the policy SCHED_RR for threads that must not wait (sched(7)). It takes a privilege, and whoever has it can keep everything else from running, so it is
//!   only used where that was asked for ([`allow_running_first`]). Cores are not shared out then.

#[cfg(target_os = "linux")]
mod cores;

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on threads that decisions wait for run before those of other policies. The calling thread goes first as well.
///
/// # Errors
/// When this process may not, or the system has no such policy.
pub fn allow_running_first() -> io::Result<()> {
    real_time()?;
    ASKED.store(true, Ordering::Relaxed);
    Ok(())
}

/// The calling thread is one that decisions wait for, until it ends.
pub fn decides() {
    if !ASKED.load(Ordering::Relaxed) {
        #[cfg(target_os = "linux")]
        cores::Role::Decides.take();
    } else if let Err(error) = real_time() {
        tracing::warn!(%error, "a thread that decisions wait for has to wait for others");
    }
}

/// The calling thread is one that computes for long, until it ends. Somebody has to say when it may have something to do: [`computing`].
pub fn computes() {
    #[cfg(target_os = "linux")]
    cores::Role::Computes.take();
}

/// The calling thread gives way to those that are not so kind, wherever it runs, until it ends.
pub fn gives_way() {
    // SAFETY: a system call that takes numbers. Linux knows niceness by thread.
    #[cfg(target_os = "linux")]
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), 10) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "a thread has the priority of all others");
    }
}

/// The calling thread is neither, and runs everywhere, as those do that it starts: a thread takes its cores from the one that starts it.
pub fn anywhere() {
    #[cfg(target_os = "linux")]
    cores::anywhere();
}

/// As many threads as can run at a time. Whoever asks the system is told of the cores that its own thread keeps to at the moment.
pub fn parallelism() -> usize {
    #[cfg(target_os = "linux")]
    return cores::parallelism();
    #[cfg(not(target_os = "linux"))]
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that compute may have something to do until what is given is dropped.
pub fn computing() -> Computing {
    #[cfg(target_os = "linux")]
    return Computing((!ASKED.load(Ordering::Relaxed)).then(cores::watched));
    #[cfg(not(target_os = "linux"))]
    Computing(())
}

/// See [`computing`].
#[must_use]
pub struct Computing(
    #[cfg(target_os = "linux")]
    #[expect(dead_code, reason = "its end counts")]
    Option<cores::Watched>,
    #[cfg(not(target_os = "linux"))] (),
);

/// The calling thread computes until what is given is dropped.
pub fn computes_meanwhile() -> Meanwhile {
    let computing = computing();
    #[cfg(target_os = "linux")]
    let was = cores::anywhere();
    computes();
    Meanwhile {
        #[cfg(target_os = "linux")]
        was,
        _computing: computing,
        _here: PhantomData,
    }
}

/// See [`computes_meanwhile`].
#[must_use]
pub struct Meanwhile {
    #[cfg(target_os = "linux")]
    was: Option<cores::Role>,
    _computing: Computing,
    /// Of one thread.
    _here: PhantomData<*const ()>,
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        anywhere();
        #[cfg(target_os = "linux")]
        if let Some(role) = self.was.take() {
            role.take();
        }
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
            decides();
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
