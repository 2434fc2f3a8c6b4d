//! Threads for learning and for batches. A pool for each number of threads, made at the first use and kept.
//!
//! Threads do not survive `fork`, and neither may a lock held by one of them: a child sees by the process id that the pools are its
//! parent's, and starts its own. The parent's are left alone there, which costs their bookkeeping and nothing else.

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::value_error;
use pyo3::PyResult;

/// Rows below which one thread is as good as several.
pub const FEW_ROWS: usize = 2_000;

struct Pools {
    process: u32,
    made: Mutex<Vec<&'static ThreadPool>>,
}

static POOLS: AtomicPtr<Pools> = AtomicPtr::new(std::ptr::null_mut());

/// The pools of this very process. Lock-free where they belong to another one.
fn pools() -> &'static Pools {
    let process = std::process::id();
    let found = POOLS.load(Ordering::Acquire);
    // SAFETY: what the pointer was set to is leaked, so it lives as long as the process.
    if let Some(pools) = unsafe { found.as_ref() }
        && pools.process == process
    {
        return pools;
    }
    let fresh = Box::leak(Box::new(Pools { process, made: Mutex::default() }));
    match POOLS.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        // Another thread of this process was first.
        Err(other) => unsafe { other.as_ref() }.unwrap_or(fresh),
    }
}

/// Runs the work on so many threads; `None`: as many as the machine or its quota has, one for few rows.
pub fn run<R: Send>(threads: Option<usize>, rows: usize, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or_else(|| if rows < FEW_ROWS { 1 } else { available() }).clamp(1, 256);
    let mut made = pools().made.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = match made.iter().find(|pool| pool.current_num_threads() == threads) {
        Some(pool) => *pool,
        None => {
            let name = |index| format!("kilter-{index}");
            let pool: &'static ThreadPool =
                Box::leak(Box::new(ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().map_err(value_error)?));
            made.push(pool);
            pool
        }
    };
    drop(made);
    Ok(pool.install(work))
}
