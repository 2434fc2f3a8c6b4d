//! Which state an erasure has changed for others, so that a replay can tell "its inputs were erased" from "it differs".
//!
//! An erased event changed the state of its own entity, and of every other entity that the same event named: a merchant, a device. In a
//! view whose key holds the columns of the erased entity nobody else is touched. One more way leads from one entity to another: an event
//! that set the source's clock ahead makes others late. Both are followed here, view by view, in the order of the log.

use std::collections::BTreeMap;

use kilter_core::{Event, EventTime, SourceId, Stub};
use kilter_pipeline::{Decision, Plan};

use crate::catalog::{Control, Decoder, Erased};
use crate::data::Data;
use crate::service::Recorded;

pub(crate) struct Taint<'a> {
    plan: &'a Plan,
    decoder: Decoder,
    erasures: BTreeMap<u64, Erased>,
    /// Per view: whether erased events may have counted for entities that are left.
    views: Vec<bool>,
    /// Per source: the newest event time with erased events, and without.
    clocks: Vec<(EventTime, EventTime)>,
}

impl<'a> Taint<'a> {
    /// None: nothing was ever erased from this log.
    pub fn new(data: &Data, plan: &'a Plan) -> anyhow::Result<Option<Taint<'a>>> {
        let mut erasures = BTreeMap::new();
        let mut reader = data.history.all()?;
        while let Some((_, bytes)) = reader.next_record()? {
            if let Some(Control::Erased(erased)) = Control::decode(bytes)? {
                erasures.insert(erased.erasure, erased);
            }
        }
        Ok((!erasures.is_empty()).then(|| Taint {
            plan,
            decoder: data.decoder(plan),
            erasures,
            views: vec![false; plan.views.len()],
            clocks: vec![(EventTime(i64::MIN), EventTime(i64::MIN)); plan.sources.len()],
        }))
    }

    /// An event that is left.
    pub fn event(&mut self, event: &Event) {
        let source = usize::from(event.source.0);
        let (then, now) = &mut self.clocks[source];
        // Late then, and perhaps not now.
        if *then > *now && event.time < *then - self.plan.sources[source].lateness {
            self.mark(event.source, |_| true);
        }
        let (then, now) = &mut self.clocks[source];
        *then = (*then).max(event.time);
        *now = (*now).max(event.time);
    }

    /// An event that was erased.
    pub fn stub(&mut self, stub: &Stub) {
        let Some(source) = self.decoder.source(stub.schema) else { return };
        let then = &mut self.clocks[usize::from(source.0)].0;
        *then = (*then).max(stub.time);
        let name = &self.plan.sources[usize::from(source.0)].name;
        // Columns that told the erased entity from others; without the erasure's record nothing is known of it.
        let own: Vec<&[String]> = match self.erasures.get(&stub.erasure) {
            Some(erased) => erased.columns.iter().filter(|k| k.source == *name).map(|k| k.columns.as_slice()).collect(),
            None => Vec::new(),
        };
        let plan = self.plan;
        // Which of several columns it was is not known: a view is safe when its key holds every one of them.
        let own_view = |view: usize| !own.is_empty() && own.iter().all(|k| k.iter().all(|c| plan.views[view].entity().contains(c)));
        let touched: Vec<bool> = (0..plan.views.len()).map(|view| !own_view(view)).collect();
        self.mark(source, |view| touched[view]);
        // Nobody else has a part in the entity's own view, but others may have read it there.
        let own = |view: usize| !touched[view] && plan.views[view].source() == source;
        for reader in (0..plan.views.len()).filter(|view| !own(*view)) {
            self.views[reader] |= plan.with_needs([reader]).into_iter().any(own);
        }
    }

    fn mark(&mut self, source: SourceId, touches: impl Fn(usize) -> bool) {
        for (at, view) in self.plan.views.iter().enumerate() {
            self.views[at] |= view.source() == source && touches(at);
        }
    }

    /// Whether everything in which a replay differs from the record rests on state that an erasure may have changed.
    pub fn explains(&self, recorded: &Recorded, again: Option<&Decision>) -> bool {
        let Some(decision) = self.plan.decision(&recorded.layout.decision) else { return false };
        let decision = &self.plan.decisions[decision];
        let touched = |slots: &[usize], context: &kilter_pipeline::ContextPlan| {
            // What a view reads of others is in its state.
            let changed = |view: usize| self.plan.with_needs([view]).iter().any(|v| self.views[*v]);
            context.lookups.iter().filter(|l| changed(l.view)).any(|l| {
                let features = l.first_slot..l.first_slot + self.plan.views[l.view].features().len();
                slots.iter().any(|slot| features.contains(slot))
            })
        };
        let by_rule = || decision.policy.iter().filter_map(|r| r.when.as_ref()).any(|when| touched(when.slots(), &decision.context));
        let model = decision.model.map(|m| &self.plan.models[m]);
        let Some(again) = again else {
            let by_model = model.is_some_and(|m| m.inputs.iter().any(|i| touched(i.expr.slots(), &m.context)));
            return by_rule() || by_model;
        };
        let old = &recorded.decision;
        if old.time != again.time || old.version != again.version || old.inputs.len() != again.inputs.len() {
            return false;
        }
        let differing: Vec<usize> = (0..old.inputs.len()).filter(|i| old.inputs[*i].to_bits() != again.inputs[*i].to_bits()).collect();
        match (differing.is_empty(), model) {
            (true, _) => old.score.map(f64::to_bits) == again.score.map(f64::to_bits) && by_rule(),
            (false, None) => false,
            (false, Some(model)) => differing.iter().all(|i| model.inputs.get(*i).is_some_and(|x| touched(x.expr.slots(), &model.context))),
        }
    }
}
