//! Views taken out of engines and put together in another one: what a change of definitions leaves alone keeps its state.

use kilter_core::EventTime;

use super::{Engine, ViewState};
use crate::View;

impl View {
    /// The columns of the source that the view reads, in ascending order.
    pub fn reads(&self) -> Vec<usize> {
        let plan = &self.plan;
        let exprs = plan.filter.iter().chain(&plan.shared.filters).chain(&plan.shared.args);
        let mut columns: Vec<usize> = exprs.flat_map(|e| e.slots().iter().copied()).chain(plan.entity_slots.iter().copied()).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Whether the state of one serves as the state of the other: all that gives it meaning is the same, whatever number their source has.
    pub fn shares_state_with(&self, other: &View) -> bool {
        let identity = |view: &View| view.plan.identity.replacen(&format!(" source {} ", view.plan.source.0), " ", 1);
        identity(self) == identity(other)
    }
}

impl Engine {
    /// An engine over `views`. View `i` takes the state of view `origins[i].1` of engine `parts[origins[i].0]`, which has none afterwards;
    /// `watermarks` are those of the sources of `views`. All parts must have taken in the same events of the sources of what they give.
    ///
    /// None: an origin names a view that is not the same, and nothing was taken.
    pub fn assemble(
        views: Vec<View>,
        watermarks: Vec<Option<EventTime>>,
        parts: &mut [Engine],
        origins: &[(usize, usize)],
    ) -> Option<Engine> {
        let fits =
            |(view, (part, place)): (&View, &(usize, usize))| parts.get(*part)?.views.get(*place)?.shares_state_with(view).then_some(());
        if views.len() != origins.len() || views.iter().zip(origins).any(|pair| fits(pair).is_none()) {
            return None;
        }
        let states: Vec<ViewState> = origins.iter().map(|(part, place)| std::mem::take(&mut parts[*part].states[*place])).collect();
        Some(Engine { states, watermarks, ..Engine::new(views) })
    }
}
