//! The decision log, read in step with the event log: decisions lie in the order of their events.

use std::sync::Arc;

use kilter_core::Offset;
use kilter_pipeline::Layout;
use kilter_pipeline::decision::{Entry, ErasedDecision, decode};
use kilter_store::log::LogReader;

use crate::data::Data;
use crate::service::{Layouts, Recorded, decisions_from};

pub(crate) struct InStep<'a> {
    data: &'a Data,
    reader: LogReader,
    layouts: Layouts,
    ahead: Option<Kept>,
}

/// What the decision log keeps of a decision.
pub(crate) enum Kept {
    Decision(Recorded),
    Erased(Arc<Layout>, ErasedDecision),
}

impl Kept {
    fn offset(&self) -> Offset {
        match self {
            Kept::Decision(recorded) => recorded.decision.offset,
            Kept::Erased(_, erased) => erased.offset,
        }
    }
}

impl<'a> InStep<'a> {
    /// From the first decision on an event at `from` or later.
    pub fn new(data: &'a Data, from: Offset) -> anyhow::Result<InStep<'a>> {
        let mut layouts = Layouts::default();
        let position = decisions_from(data, &mut layouts, from)?;
        Ok(InStep { data, reader: data.decisions.reader(position), layouts, ahead: None })
    }

    /// The next one, if it is on the event at an offset or on one before it.
    pub fn next_until(&mut self, offset: Offset) -> anyhow::Result<Option<Kept>> {
        while self.ahead.is_none() {
            let Some((_, bytes)) = self.reader.next_record()? else { return Ok(None) };
            self.ahead = match decode(bytes)? {
                Entry::Erased(layout, erased) => Some(Kept::Erased(self.layouts.layout(self.data, layout)?, erased)),
                entry => self.layouts.recorded(self.data, entry)?.map(Kept::Decision),
            };
        }
        Ok(self.ahead.take_if(|next| next.offset() <= offset))
    }

    /// Those recorded on the event at an offset; what was recorded on events that are passed over is passed over too.
    pub fn at(&mut self, offset: Offset) -> anyhow::Result<Vec<Recorded>> {
        let mut found = Vec::new();
        while let Some(kept) = self.next_until(offset)? {
            if let Kept::Decision(recorded) = kept
                && recorded.decision.offset == offset
            {
                found.push(recorded);
            }
        }
        Ok(found)
    }
}
