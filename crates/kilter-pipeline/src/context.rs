//! The values in reach at an observation, gathered in one place: its own row, then the features of each view it has a key for.

use kilter_core::{EntityKey, Event, Value};
use kilter_features::Engine;

use crate::{ContextPlan, ModelPlan};

impl ContextPlan {
    /// Fills `slots` for `event`: its row, then one read per lookup at the event's own time.
    pub fn fill(&self, event: &Event, engine: &mut Engine, slots: &mut Vec<Value>) {
        slots.clear();
        slots.extend_from_slice(&event.row);
        for lookup in &self.lookups {
            match EntityKey::from_row(&event.row, &lookup.key) {
                Some(key) => engine.read(lookup.view, &key, event.time, slots),
                None => slots.extend(std::iter::repeat_n(Value::Null, engine.views()[lookup.view].features().len())),
            }
        }
    }
}

impl ModelPlan {
    /// The model's row from the slots of its context; missing values as NaN.
    pub fn inputs(&self, slots: &[Value], row: &mut Vec<f64>) {
        row.clear();
        row.extend(self.inputs.iter().map(|input| input.expr.eval(slots).as_f64().unwrap_or(f64::NAN)));
    }

    pub fn input_names(&self) -> Vec<String> {
        self.inputs.iter().map(|i| i.name.clone()).collect()
    }
}
