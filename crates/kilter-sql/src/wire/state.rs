//! What one client has made so far, and how it is told of errors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pgwire::api::ClientInfo;
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use tokio::sync::Mutex;

use super::Identity;
use super::rows::Rows;
use crate::command::Command;
use crate::error::{self, SqlError};
use crate::prepared::Prepared;
use crate::session::Session;

/// What one client has made so far.
pub struct State {
    pub session: Session,
    /// Whom it let in; none: the door was open.
    pub who: Option<Identity>,
    /// Each with whether it outlives its transaction.
    pub cursors: HashMap<String, (Rows, bool)>,
    /// Portals that have rows left.
    pub portals: HashMap<String, Rows>,
    /// Portals that had rows left when what their client may see changed.
    pub gone: HashSet<String>,
    pub statements: Sizes,
    pub bound: Sizes,
}

/// Cursors and portals with rows left, of one client at a time.
const OPEN: usize = 32;
/// Prepared statements of one client at a time, and bytes of their texts and plans.
const STATEMENTS: (usize, usize) = (1000, 16 << 20);
/// Portals of one client at a time, and bytes of their parameters.
const PORTALS: (usize, usize) = (200, 16 << 20);

/// How large things with names are.
pub struct Sizes {
    what: &'static str,
    most: (usize, usize),
    pub sizes: HashMap<String, usize>,
}

impl Sizes {
    fn new(what: &'static str, most: (usize, usize)) -> Sizes {
        Sizes { what, most, sizes: HashMap::new() }
    }

    /// Takes one in, in place of what was called like it.
    pub fn add(&mut self, name: &str, size: usize) -> error::Result<()> {
        let old = self.sizes.remove(name);
        let bytes = self.sizes.values().sum::<usize>().saturating_add(size);
        if self.sizes.len() == self.most.0 || bytes > self.most.1 {
            let (count, bytes) = self.most;
            if let Some(old) = old {
                self.sizes.insert(name.to_owned(), old);
            }
            let message = format!("a client has at most {count} {}, of {bytes} bytes together", self.what);
            return Err(SqlError::new("53400", message).hint("close those that are not needed"));
        }
        self.sizes.insert(name.to_owned(), size);
        Ok(())
    }
}

impl State {
    pub fn new(session: Session, who: Option<Identity>) -> State {
        let (statements, bound) = (Sizes::new("prepared statements", STATEMENTS), Sizes::new("portals", PORTALS));
        State { session, who, cursors: HashMap::new(), portals: HashMap::new(), gone: HashSet::new(), statements, bound }
    }

    /// Whether one more may be open.
    pub fn has_room(&self) -> error::Result<()> {
        match self.cursors.len() + self.portals.len() < OPEN {
            true => Ok(()),
            false => {
                let message = format!("a client has at most {OPEN} cursors and portals with rows left");
                Err(SqlError::new("53000", message).hint("close some"))
            }
        }
    }
}

/// A statement that was parsed and waits to be run.
#[derive(Clone)]
pub struct Stmt {
    pub command: Command,
    pub prepared: Option<Prepared>,
}

/// Bytes of a text in an error: clients take messages of 30 000 bytes.
const TOLD: usize = 4096;

/// A text as it may stand in a message.
pub fn told(text: &str) -> String {
    let end = (0..=TOLD.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let rest = if end < text.len() { "…" } else { "" };
    text[..end].replace('\0', "") + rest
}

impl From<SqlError> for PgWireError {
    fn from(e: SqlError) -> PgWireError {
        let mut info = ErrorInfo::new("ERROR".into(), e.code.into(), told(&e.message));
        info.severity_nonlocalized = Some("ERROR".into());
        info.hint = e.hint.as_deref().map(told);
        info.position = e.position.map(|position| position.to_string());
        PgWireError::UserError(Box::new(info))
    }
}

/// Whether somebody has logged in.
pub fn is_in<C: ClientInfo>(client: &C) -> bool {
    client.session_extensions().get::<Mutex<State>>().is_some()
}

/// What the client of a connection has made.
///
/// # Errors
/// Before it has logged in.
pub fn state<C: ClientInfo>(client: &C) -> PgWireResult<Arc<Mutex<State>>> {
    let missing = || PgWireError::from(SqlError::new("08P01", "nobody has logged in"));
    client.session_extensions().get::<Mutex<State>>().ok_or_else(missing)
}
