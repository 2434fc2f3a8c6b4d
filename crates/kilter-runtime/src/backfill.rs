//! Fills what a change of definitions needs from the log, beside whatever serves meanwhile.

use std::sync::Arc;

use kilter_core::Offset;
use kilter_pipeline::{Change, Misfit, Pipeline, Plan};

use crate::catalog::{Control, Record};
use crate::data::{ChampionRecord, Data};
use crate::meaning::meaning;

/// A change under way: the old state goes on serving, what is missing is filled.
pub struct Backfill {
    change: Change,
    filled: Pipeline,
}

/// Whether a version trained for a model of one plan serves under the other.
pub fn same_inputs(old: &Plan, was: usize, new: &Plan, is: usize) -> bool {
    let predicts = |plan: &Plan, model: usize| std::mem::discriminant(&plan.models[model].task());
    old.models[was].input_names() == new.models[is].input_names()
        && meaning(old, was) == meaning(new, is)
        && predicts(old, was) == predicts(new, is)
}

impl Backfill {
    pub fn new(old: Arc<Plan>, new: Arc<Plan>) -> Backfill {
        let change = Change::new(Arc::clone(&old), Arc::clone(&new), |was, is| same_inputs(&old, was, &new, is));
        Backfill { filled: change.filler(), change }
    }

    pub fn change(&self) -> &Change {
        &self.change
    }

    /// The next offset to read; none: the old state has all that is needed.
    pub fn next_offset(&self) -> Option<Offset> {
        self.change.needs_log().then(|| self.filled.next_offset())
    }

    /// Reads the log up to `until` (exclusive). `progress` is told the offset reached; its `false` ends the reading early.
    pub fn advance(&mut self, data: &Data, until: Offset, mut progress: impl FnMut(Offset) -> bool) -> anyhow::Result<()> {
        let Some(from) = self.next_offset() else { return Ok(()) };
        let from = from.max(data.first_offset);
        let start = if from < data.events.start_offset() { data.history.start()? } else { from };
        anyhow::ensure!(
            from >= start,
            "what changes must be filled from the history, which begins at offset {start}: what came before is there as state only\n  hint: make the \
             state anew under the new definitions, and boot a new data folder from it"
        );
        let plan = Arc::clone(self.change.new_plan());
        let (change, filled) = (&self.change, &mut self.filled);
        data.walk_while(&plan, from, until, |offset, record| {
            match record {
                Record::Event(event) => {
                    filled.process(&event);
                }
                Record::Control(Control::Champion { model, version, artifact, reference, meaning }) => {
                    if let Some(index) = plan.model(&model).filter(|m| change.fills_model(*m)) {
                        // A version with other inputs than these was never in service here: the one before it stays.
                        if let Some(champion) = data.champion(&plan, index, &ChampionRecord { version, artifact, reference, meaning })? {
                            filled.set_champion(index, champion);
                        }
                    }
                    filled.skip(offset);
                }
                Record::Control(_) | Record::Foreign | Record::Erased(_) => filled.skip(offset),
            }
            Ok(offset % 4096 != 0 || progress(offset + 1))
        })
    }

    /// Marks a log record that no pipeline takes in as passed.
    pub fn skip(&mut self, offset: Offset) {
        self.filled.skip(offset);
    }

    /// Whether [`Backfill::finish`] will succeed.
    pub fn fits(&self, old: &Pipeline) -> bool {
        self.change.fits(old, &self.filled)
    }

    /// Puts what was filled and the old state together.
    pub fn finish(self, old: Pipeline) -> Result<Pipeline, Misfit> {
        self.change.finish(old, self.filled)
    }
}
