//! Cores shared out between threads that decisions wait for and threads that compute.
//!
//! Where a thread that wakes up is put, and whether it takes the core from what runs there, is the scheduler's. Neither niceness nor the idle class nor a short slice
//! keeps one from being put, now and then, where another computes until the next tick, up to four milliseconds later. So while there are decisions and threads
//! compute, those that compute keep to the last quarter of the cores (one at least) and those that decisions wait for to the others. Where decisions would need
//! most of what is left to them, and while nothing computes, everything runs everywhere.
//!
//! A thread of its own looks at what both kinds take, as long as something may compute, and does nothing otherwise.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);
/// Over which decisions' share of the cores is told.
const LATELY: f64 = 0.1;
/// In which it is forgotten, for the most part, that something computed: what comes again and again finds the cores shared out.
const A_WHILE: f64 = 1.0;
/// Of a core: what is said to compute.
const COMPUTES: f64 = 0.2;
/// Of a core: less than this is no decisions.
const DECIDES: f64 = 0.002;
/// Of the cores that decisions would have to themselves: below the first they get them, above the second everything runs everywhere again.
const ENOUGH: f64 = 0.5;
const SCARCE: f64 = 0.75;

type Id = libc::pid_t;

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Decides,
    Computes,
}

#[derive(Default)]
struct Threads {
    roles: HashMap<Id, Role>,
    apart: bool,
    /// How many say that something may compute.
    watched: usize,
    /// Somebody looks.
    looking: bool,
}

static THREADS: LazyLock<Mutex<Threads>> = LazyLock::new(Mutex::default);
static CHANGED: Condvar = Condvar::new();
/// Of the process; none where there is nothing to share out.
static CORES: LazyLock<Option<Cores>> = LazyLock::new(Cores::of_process);

thread_local! {
    static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
}

/// A thread's entry, which goes with the thread.
struct Mine(Id, Role);

impl Drop for Mine {
    fn drop(&mut self) {
        threads().roles.remove(&self.0);
    }
}

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Role {
    /// Gives the calling thread this role.
    pub fn take(self) {
        let Some(cores) = &*CORES else { return };
        // SAFETY: a system call without arguments.
        let id = unsafe { libc::gettid() };
        MINE.with_borrow_mut(|mine| *mine = None);
        let mut threads = threads();
        threads.roles.insert(id, self);
        keep_to(id, if threads.apart { cores.of(self) } else { &cores.all });
        drop(threads);
        MINE.with_borrow_mut(|mine| *mine = Some(Mine(id, self)));
    }
}

/// Takes the calling thread's role from it, and gives what it was.
pub fn anywhere() -> Option<Role> {
    let cores = CORES.as_ref()?;
    let mine = MINE.take();
    keep_to(0, &cores.all);
    mine.map(|mine| mine.1)
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub fn parallelism() -> usize {
    CORES.as_ref().map_or_else(available, |cores| cores.parallelism)
}

/// Something may compute, until this is dropped.
pub struct Watched;

pub fn watched() -> Watched {
    let mut threads = threads();
    threads.watched += 1;
    if CORES.is_some() && !threads.looking {
        let begun = std::thread::Builder::new().name("cores".into()).spawn(|| {
            anywhere();
            look();
        });
        threads.looking = begun.is_ok();
    }
    drop(threads);
    CHANGED.notify_one();
    Watched
}

impl Drop for Watched {
    fn drop(&mut self) {
        threads().watched -= 1;
    }
}

/// The cores that the process may run on, and how they are shared out.
struct Cores {
    all: libc::cpu_set_t,
    decisions: libc::cpu_set_t,
    computing: libc::cpu_set_t,
    /// How many decisions have to themselves.
    for_decisions: f64,
    /// As many threads as can run at a time: no more than cores, or fewer by a quota.
    parallelism: usize,
}

impl Cores {
    /// Before any thread is told where to run.
    fn of_process() -> Option<Cores> {
        // SAFETY: all zeros is the empty set. The process's first thread has the cores that it was started with, whoever asks.
        let (all, known) = unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            let known = libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &raw mut all) == 0;
            (all, known)
        };
        known.then(|| Cores::shared_out(all)).flatten()
    }

    fn shared_out(all: libc::cpu_set_t) -> Option<Cores> {
        let cores = listed(&all);
        if cores.len() < 2 {
            return None;
        }
        let (decisions, computing) = cores.split_at(cores.len() - (cores.len() / 4).max(1));
        #[expect(clippy::cast_precision_loss, reason = "a thousand cores at most")]
        let for_decisions = decisions.len() as f64;
        Some(Cores { all, decisions: set_of(decisions), computing: set_of(computing), for_decisions, parallelism: available() })
    }

    fn of(&self, role: Role) -> &libc::cpu_set_t {
        match role {
            Role::Decides => &self.decisions,
            Role::Computes => &self.computing,
        }
    }
}

fn listed(set: &libc::cpu_set_t) -> Vec<usize> {
    // SAFETY: numbers below the size of the set.
    (0..8 * size_of::<libc::cpu_set_t>()).filter(|&core| unsafe { libc::CPU_ISSET(core, set) }).collect()
}

fn set_of(cores: &[usize]) -> libc::cpu_set_t {
    // SAFETY: all zeros is the empty set, and the numbers are below its size.
    unsafe {
        let mut set = std::mem::zeroed();
        cores.iter().for_each(|&core| libc::CPU_SET(core, &mut set));
        set
    }
}

/// A thread that is gone meanwhile is nowhere.
fn keep_to(id: Id, cores: &libc::cpu_set_t) {
    // SAFETY: the set outlives the call.
    unsafe { libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const *cores) };
}

/// The CPU time that a thread of this process has taken, in seconds.
fn taken(id: Id) -> Option<f64> {
    // What pthread_getcpuclockid makes of a thread, for whom it must live: the scheduler's clock (2) of one thread (4), by its number.
    let clock = (!id << 3) | 4 | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time outlives the call, which refuses the clock of a thread that is gone.
    let known = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    let time = known.then(|| Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.try_into().unwrap_or(0)))?;
    Some(time.as_secs_f64())
}

/// What both kinds take, in cores, and what follows from it.
#[derive(Default)]
struct Balance {
    decided: f64,
    computed: f64,
    apart: bool,
}

impl Balance {
    /// `decided` and `computed`: the CPU seconds of both kinds in the last `elapsed` seconds.
    fn after(&mut self, elapsed: f64, decided: f64, computed: f64, for_decisions: f64) -> bool {
        let (decided, computed) = (decided / elapsed, computed / elapsed);
        self.decided += (decided - self.decided) * (1.0 - (-elapsed / LATELY).exp());
        self.computed = computed.max(self.computed * (-elapsed / A_WHILE).exp());
        let room = if self.apart { SCARCE } else { ENOUGH };
        self.apart = self.computed > COMPUTES && self.decided > DECIDES && self.decided < room * for_decisions;
        self.apart
    }
}

/// Looks as long as something may compute, until the process ends.
fn look() {
    let Some(cores) = &*CORES else { return };
    let (mut balance, mut before, mut at) = (Balance::default(), HashMap::new(), Instant::now());
    // Threads without a role that run everywhere: they were started by one that does not.
    let mut others = HashSet::new();
    loop {
        let (roles, waited) = {
            let (mut threads, mut waited) = (threads(), false);
            while threads.watched == 0 && !threads.apart {
                threads = CHANGED.wait(threads).unwrap_or_else(PoisonError::into_inner);
                waited = true;
            }
            (threads.roles.clone(), waited)
        };
        if !waited {
            std::thread::sleep(TICK);
        }
        let now: HashMap<Id, f64> = roles.keys().filter_map(|&id| Some((id, taken(id)?))).collect();
        let elapsed = at.elapsed().as_secs_f64();
        at = Instant::now();
        let lately = |role| -> f64 {
            let of_role = now.iter().filter(|(id, _)| roles[id] == role);
            // A number can be given anew.
            of_role.filter_map(|(id, time)| Some((time - before.get(id)?).max(0.0))).sum()
        };
        let apart = balance.after(elapsed, lately(Role::Decides), lately(Role::Computes), cores.for_decisions);
        before = now;
        let mut threads = threads();
        let was = std::mem::replace(&mut threads.apart, apart);
        if apart != was {
            tracing::debug!(apart, decisions = balance.decided, computing = balance.computed, "cores are shared out, or are so no longer");
            for (&id, &role) in &threads.roles {
                keep_to(id, if apart { cores.of(role) } else { &cores.all });
            }
        }
        if apart || was {
            free_others(&threads, cores, &mut others);
        }
        if !apart {
            others.clear();
        }
    }
}

/// Threads take their cores from those that start them; those without a role may run everywhere.
fn free_others(threads: &Threads, cores: &Cores, known: &mut HashSet<Id>) {
    let Ok(all) = std::fs::read_dir("/proc/self/task") else { return };
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others: HashSet<Id> = ids.filter(|id| !threads.roles.contains_key(id)).collect();
    for &id in others.difference(known) {
        keep_to(id, &cores.all);
    }
    *known = others;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_quarter_of_the_cores_computes_and_one_at_least() {
        for (all, decisions, computing) in [
            (vec![0, 1], vec![0], vec![1]),
            (vec![3, 9, 11], vec![3, 9], vec![11]),
            ((0..4).collect(), vec![0, 1, 2], vec![3]),
            ((8..16).collect(), (8..14).collect(), vec![14, 15]),
        ] {
            let cores = Cores::shared_out(set_of(&all)).unwrap();
            assert_eq!([listed(&cores.all), listed(&cores.decisions), listed(&cores.computing)], [all, decisions.clone(), computing]);
            assert!((cores.for_decisions - f64::from(u32::try_from(decisions.len()).unwrap())).abs() < 1e-9);
        }
        assert!(Cores::shared_out(set_of(&[5])).is_none(), "one core is not shared out");
    }

    /// Whether cores are shared out after each of `looks`: for how many seconds how many cores went into decisions, and into what computes.
    fn shared_out_after(looks: &[(f64, f64, f64)], for_decisions: f64) -> Vec<bool> {
        let mut balance = Balance::default();
        looks
            .iter()
            .map(|(seconds, decided, computed)| balance.after(*seconds, seconds * decided, seconds * computed, for_decisions))
            .collect()
    }

    #[test]
    fn cores_are_shared_out_while_something_computes_beside_decisions() {
        let before = (10.0, 0.2, 0.0);
        assert_eq!(shared_out_after(&[before, (0.02, 0.2, 0.9)], 1.0), [false, true], "at the first look");
        assert_eq!(shared_out_after(&[(10.0, 0.0, 0.0), (0.02, 0.0, 1.0), (1.0, 0.0, 1.0)], 1.0), [false; 3], "there are no decisions");
        assert_eq!(shared_out_after(&[before, (0.02, 0.2, 0.1), (1.0, 0.2, 0.1)], 1.0), [false; 3], "next to nothing computes");
        let pauses = [before, (0.02, 0.2, 0.9), (0.02, 0.2, 0.0), (0.5, 0.2, 0.0), (0.02, 0.2, 0.9), (3.0, 0.2, 0.0)];
        assert_eq!(
            shared_out_after(&pauses, 1.0),
            [false, true, true, true, true, false],
            "questions come one after the other, and then none"
        );
    }

    #[test]
    fn decisions_that_need_the_cores_get_them() {
        let busy = (10.0, 0.6, 0.0);
        assert_eq!(shared_out_after(&[busy, (0.02, 0.6, 1.0), (1.0, 0.6, 1.0)], 1.0), [false; 3], "more than half of what would be left");
        assert_eq!(shared_out_after(&[busy, (0.02, 0.6, 1.0)], 3.0), [false, true], "less than half of three");
        let more_and_more = [(10.0, 0.3, 0.0), (0.02, 0.3, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 0.4, 1.0)];
        assert_eq!(shared_out_after(&more_and_more, 1.0), [false, true, true, false, false, true]);
    }

    fn cores_of(id: Id) -> Vec<usize> {
        let mut cores = set_of(&[]);
        // SAFETY: the set outlives the call.
        unsafe { libc::sched_getaffinity(id, size_of::<libc::cpu_set_t>(), &raw mut cores) };
        listed(&cores)
    }

    fn soon(what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(120), "not so for two minutes: {what}");
            std::thread::sleep(TICK);
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn threads_keep_to_their_cores_for_as_long_as_both_kinds_work() {
        let Some(cores) = &*CORES else {
            eprintln!("skipped: there is one core");
            return;
        };
        let [all, decisions, others] = [&cores.all, &cores.decisions, &cores.computing].map(listed);
        let (deciding, computing) = (AtomicBool::new(true), AtomicBool::new(true));
        let spin = |time| {
            let began = Instant::now();
            while began.elapsed() < time {}
        };
        // SAFETY: a system call without arguments.
        let me = || unsafe { libc::gettid() };
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let (start, started) = mpsc::channel::<()>();
            let told_again = tell.clone();
            let (deciding, computing) = (&deciding, &computing);
            scope.spawn(move || {
                Role::Decides.take();
                tell.send(me()).unwrap();
                let mut child = None;
                while deciding.load(Ordering::Relaxed) {
                    if started.try_recv().is_ok() {
                        let tell = tell.clone();
                        child = Some(scope.spawn(move || {
                            tell.send(me()).unwrap();
                            while deciding.load(Ordering::Relaxed) {
                                std::thread::sleep(TICK);
                            }
                        }));
                    }
                    spin(Duration::from_micros(100));
                    std::thread::sleep(Duration::from_millis(1));
                }
                drop(child);
            });
            let decider = told.recv().unwrap();
            scope.spawn(move || {
                Role::Computes.take();
                told_again.send(me()).unwrap();
                while computing.load(Ordering::Relaxed) {
                    spin(TICK);
                }
            });
            let computer = told.recv().unwrap();
            assert_eq!([cores_of(decider), cores_of(computer)], [all.clone(), all.clone()], "nobody said that something may compute");
            let watched = watched();
            soon("each has its own", || cores_of(decider) == decisions && cores_of(computer) == others);
            start.send(()).unwrap();
            let child = told.recv().unwrap();
            soon("what a thread starts runs everywhere", || cores_of(child) == all);
            computing.store(false, Ordering::Relaxed);
            soon("nothing computes any more", || cores_of(decider) == all);
            drop(watched);
            deciding.store(false, Ordering::Relaxed);
        });
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn a_role_goes_with_its_thread_and_can_be_laid_down_before() {
        if CORES.is_none() {
            eprintln!("skipped: there is one core");
            return;
        }
        let role = |id| threads().roles.get(&id).copied();
        let gone = std::thread::spawn(move || {
            // SAFETY: a system call without arguments.
            let me = unsafe { libc::gettid() };
            Role::Decides.take();
            assert!(role(me) == Some(Role::Decides));
            let meanwhile = crate::threads::computes_meanwhile();
            assert!(role(me) == Some(Role::Computes));
            drop(meanwhile);
            assert!(role(me) == Some(Role::Decides));
            crate::threads::anywhere();
            assert!(role(me).is_none());
            crate::threads::computes();
            assert!(role(me) == Some(Role::Computes));
            me
        });
        assert!(role(gone.join().unwrap()).is_none());
    }
}
