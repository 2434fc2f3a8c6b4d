//! What each source has sent so far: a function of the log, kept with the state.

use kilter_core::{Event, EventTime};
use serde::{Deserialize, Serialize};

/// The events of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTally {
    /// Since the start of the log.
    pub events: u64,
    /// When the newest one arrived, by the clock of the machine that took it in; none: there was none.
    pub arrived: Option<EventTime>,
}

impl SourceTally {
    pub(crate) fn count(&mut self, event: &Event) {
        self.events += 1;
        self.arrived = self.arrived.max(Some(event.arrived));
    }
}
