//! What calls leave behind for those that follow: prepared statements, and how to stop what runs.
//!
//! Clients come by several connections, and come back by others, so nothing of it belongs to a connection. It belongs to a key, and nobody else's can use it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Statement;
use pgwire::api::Type;
use tokio::sync::watch;

use super::status::UNKNOWN_STATEMENT;
use crate::error::{CANCELED, INTERNAL, Result, SqlError};
use crate::prepared::Prepared;
use crate::sealed::Sealed;

/// Whose it is: the hash of a key; none: the door is open to everybody.
pub type Owner = Option<[u8; 32]>;
/// A number that nobody guesses.
pub type Id = [u8; 16];

/// # Errors
/// When the system has no random numbers.
pub fn id() -> Result<Id> {
    let mut id = Id::default();
    getrandom::fill(&mut id).map_err(|e| SqlError::new(INTERNAL, format!("there are no random numbers: {e}")))?;
    Ok(id)
}

/// A statement that waits to be run.
#[derive(Clone)]
pub struct Waiting {
    pub statement: Sealed<Statement>,
    pub prepared: Prepared,
    /// What its parameters are.
    pub parameters: Vec<Type>,
    /// With parameters: what to run, and what is to be given to it then.
    pub bound: Option<(Prepared, Vec<ScalarValue>)>,
    /// Bytes that the parameters take in what is to be run.
    pub given: usize,
    /// Bytes of its text.
    pub text: usize,
}

impl Waiting {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let bound = self
            .bound
            .as_ref()
            .map_or(0, |(prepared, values)| values.iter().map(ScalarValue::size).fold(prepared.size(), usize::saturating_add));
        [self.text, self.prepared.size(), bound, self.given].into_iter().fold(0, usize::saturating_add)
    }
}

struct Held<T> {
    owner: Owner,
    what: T,
    size: usize,
    used: Instant,
}

/// How many prepared statements there are at most, and bytes of their texts, plans and parameters: of one key, and of all.
#[derive(Clone, Copy)]
pub struct Room {
    pub of_one: (usize, usize),
    pub of_all: (usize, usize),
    /// One that is not used for so long is forgotten.
    pub unused: Duration,
}

impl Default for Room {
    fn default() -> Room {
        Room { of_one: (1000, 16 << 20), of_all: (4000, 64 << 20), unused: Duration::from_secs(3600) }
    }
}

/// Prepared statements. Where there is no room for one more, those go first that were used least lately.
pub struct Statements<T>(Room, Mutex<HashMap<Id, Held<T>>>);

impl<T: Clone> Statements<T> {
    pub fn new(room: Room) -> Statements<T> {
        Statements(room, Mutex::default())
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Id, Held<T>>> {
        let mut held = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|_, one| now.duration_since(one.used) < self.0.unused);
        held
    }

    /// Keeps a statement of about so many bytes, in place of what had its number.
    ///
    /// # Errors
    /// When it is larger than all may be together.
    pub fn put(&self, id: Id, owner: Owner, what: T, size: usize) -> Result<()> {
        let Room { of_one, of_all, .. } = self.0;
        if size > of_one.1 {
            let message = format!("prepared statements have at most {} bytes together, and this has {size}", of_one.1);
            return Err(SqlError::new("53400", message).hint("give parameters a shorter value"));
        }
        let mut held = self.held();
        held.remove(&id);
        // First what is one's own.
        for (most, only) in [(of_one, Some(owner)), (of_all, None)] {
            let counts = |one: &Held<T>| only.is_none_or(|only| one.owner == only);
            loop {
                let (count, bytes) =
                    held.values().filter(|one| counts(one)).fold((0, 0_usize), |(n, bytes), one| (n + 1, bytes + one.size));
                if count < most.0 && bytes.saturating_add(size) <= most.1 {
                    break;
                }
                let oldest = held.iter().filter(|(_, one)| counts(one)).min_by_key(|(_, one)| one.used).map(|(id, _)| *id);
                let Some(oldest) = oldest else { break };
                held.remove(&oldest);
            }
        }
        held.insert(id, Held { owner, what, size, used: Instant::now() });
        Ok(())
    }

    /// # Errors
    /// When there is none of this number, or it is somebody else's.
    pub fn get(&self, id: &[u8], owner: Owner) -> Result<(Id, T)> {
        let unknown = || {
            let hint = format!(
                "prepare it again: one that is not used for {} minutes is forgotten, and the oldest where there are many",
                self.0.unused.as_secs() / 60
            );
            SqlError::new(UNKNOWN_STATEMENT, "the prepared statement does not exist").hint(hint)
        };
        let id = Id::try_from(id).map_err(|_| unknown())?;
        let mut held = self.held();
        let one = held.get_mut(&id).filter(|one| one.owner == owner).ok_or_else(unknown)?;
        one.used = Instant::now();
        Ok((id, one.what.clone()))
    }

    /// Forgets one, if it is there and one's own.
    pub fn remove(&self, id: &[u8], owner: Owner) {
        let mut held = self.held();
        if let Ok(id) = Id::try_from(id)
            && held.get(&id).is_some_and(|one| one.owner == owner)
        {
            held.remove(&id);
        }
    }
}

struct Runs {
    owner: Owner,
    stop: watch::Sender<bool>,
    /// How many streams of its rows there are.
    streams: usize,
}

/// Statements whose rows are being read.
#[derive(Default)]
pub struct Running(Mutex<HashMap<Id, Runs>>);

/// One of them; dropped, it runs no more.
pub struct Run {
    id: Id,
    owner: Owner,
    stopped: watch::Receiver<bool>,
    running: Arc<Running>,
}

impl Running {
    fn runs(&self) -> MutexGuard<'_, HashMap<Id, Runs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When the number is somebody else's.
    pub fn begin(self: &Arc<Running>, id: Id, owner: Owner) -> Result<Run> {
        let mut runs = self.runs();
        let one = runs.entry(id).or_insert_with(|| Runs { owner, stop: watch::Sender::new(false), streams: 0 });
        if one.owner != owner {
            return Err(SqlError::new("42501", "the ticket is somebody else's").hint("ask for one: GetFlightInfo"));
        }
        one.streams += 1;
        Ok(Run { id, owner, stopped: one.stop.subscribe(), running: Arc::clone(self) })
    }

    /// Stops a statement; false: there is none of this number that is one's own.
    pub fn stop(&self, id: Id, owner: Owner) -> bool {
        let runs = self.runs();
        let own = runs.get(&id).filter(|one| one.owner == owner);
        own.is_some_and(|one| {
            one.stop.send_replace(true);
            true
        })
    }
}

impl Run {
    /// Waits for something, or for somebody to say that it is not wanted any more.
    ///
    /// # Errors
    /// As it has it; it was stopped.
    pub async fn unless_stopped<T>(&mut self, task: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            Ok(_) = self.stopped.wait_for(|stopped| *stopped) => Err(SqlError::new(CANCELED, "canceling statement due to user request")),
            done = task => done,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut runs = self.running.runs();
        if let Some(one) = runs.get_mut(&self.id).filter(|one| one.owner == self.owner) {
            one.streams -= 1;
            if one.streams == 0 {
                runs.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Owner = Some([1; 32]);
    const BOB: Owner = Some([2; 32]);

    fn statements() -> Statements<&'static str> {
        Statements::new(Room { of_one: (3, 100), of_all: (4, 150), unused: Duration::from_secs(3600) })
    }

    fn check(statements: &Statements<&'static str>, owner: Owner, expected: &str) {
        let mut held: Vec<(u8, &str)> =
            statements.held().iter().filter(|(_, one)| one.owner == owner).map(|(id, one)| (id[0], one.what)).collect();
        held.sort_unstable();
        assert_eq!(held.into_iter().map(|(_, what)| what).collect::<String>(), expected);
    }

    #[test]
    fn what_was_used_least_lately_makes_room_first_ones_own() {
        let kept = statements();
        for (n, what) in [(1, "a"), (2, "b"), (3, "c")] {
            kept.put([n; 16], ADA, what, 10).unwrap();
        }
        assert_eq!(kept.get(&[1; 16], ADA).unwrap().1, "a");
        kept.put([4; 16], ADA, "d", 10).unwrap();
        check(&kept, ADA, "acd");
        // By bytes too, and in place of its own older self.
        kept.put([5; 16], ADA, "e", 85).unwrap();
        check(&kept, ADA, "de");
        kept.put([5; 16], ADA, "f", 90).unwrap();
        check(&kept, ADA, "df");
        assert!(kept.put([6; 16], ADA, "g", 101).is_err());
        check(&kept, ADA, "df");
        // Of all together somebody else's may go.
        kept.put([7; 16], BOB, "h", 60).unwrap();
        check(&kept, ADA, "f");
        check(&kept, BOB, "h");
    }

    #[test]
    fn nobody_has_what_is_somebody_elses_or_long_unused() {
        let kept = statements();
        kept.put([1; 16], ADA, "a", 1).unwrap();
        for (id, owner) in [(&[1; 16][..], BOB), (&[1; 16], None), (&[2; 16], ADA), (&[1; 15], ADA), (&[], ADA)] {
            assert_eq!(kept.get(id, owner).unwrap_err().code, UNKNOWN_STATEMENT);
            kept.remove(id, owner);
        }
        check(&kept, ADA, "a");
        kept.remove(&[1; 16], ADA);
        check(&kept, ADA, "");
        let hasty = Statements::new(Room { unused: Duration::ZERO, ..Room::default() });
        hasty.put([1; 16], ADA, "a", 1).unwrap();
        assert!(hasty.get(&[1; 16], ADA).is_err());
    }

    #[tokio::test]
    async fn what_runs_is_stopped_by_whose_it_is() {
        let running = Arc::new(Running::default());
        let mut runs = [running.begin([1; 16], ADA).unwrap(), running.begin([1; 16], ADA).unwrap()];
        assert!(running.begin([1; 16], BOB).is_err());
        assert!(!running.stop([1; 16], BOB) && !running.stop([2; 16], ADA));
        assert_eq!(runs[0].unless_stopped(async { Ok(1) }).await, Ok(1));
        assert!(running.stop([1; 16], ADA));
        for run in &mut runs {
            assert_eq!(run.unless_stopped(std::future::pending::<Result<()>>()).await.unwrap_err().code, CANCELED);
        }
        drop(runs);
        assert!(!running.stop([1; 16], ADA) && running.runs().is_empty());
    }
}
