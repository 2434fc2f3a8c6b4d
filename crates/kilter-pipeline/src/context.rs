//! The values in reach at an observation, gathered in one place: its own row, then the features of each view it has a key for.

use kilter_core::{EntityKey, Event, EventTime, Value};
use kilter_features::Engine;
use kilter_learn::category_of;

use crate::{ContextPlan, Lookup, ModelPlan};

impl Lookup {
    /// Appends the features of the entity that `row` names, as of `at`; where it names none, nulls.
    pub fn read(&self, row: &[Value], at: EventTime, engine: &mut Engine, slots: &mut Vec<Value>) {
        match EntityKey::from_row(row, &self.key) {
            Some(key) => engine.read(self.view, &key, at, slots),
            None => slots.extend(std::iter::repeat_n(Value::Null, engine.views()[self.view].features().len())),
        }
    }
}

impl ContextPlan {
    /// Fills `slots` for `event`: its row, then one read per lookup at the event's own time.
    pub fn fill(&self, event: &Event, engine: &mut Engine, slots: &mut Vec<Value>) {
        slots.clear();
        slots.extend_from_slice(&event.row);
        for lookup in &self.lookups {
            lookup.read(&event.row, event.time, engine, slots);
        }
    }
}

impl ModelPlan {
    /// The model's row from the slots of its context; missing values as NaN, texts as the number of their category.
    pub fn inputs(&self, slots: &[Value], row: &mut Vec<f64>) {
        row.clear();
        row.extend(self.inputs.iter().map(|input| match input.expr.eval(slots) {
            Value::Text(text) => category_of(&text),
            value => value.as_f64().unwrap_or(f64::NAN),
        }));
    }

    pub fn input_names(&self) -> Vec<String> {
        self.inputs.iter().map(|i| i.name.clone()).collect()
    }
}
