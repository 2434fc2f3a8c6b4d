//! `calibration` of a model: a word, or a table with more to say.

use std::borrow::Cow;

use kilter_core::Problem;
use kilter_learn::Calibration;
use kilter_learn::calibration::Method;
use kilter_pipeline::CalibrationPlan;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::definitions::Word;
use super::reader::Reader;

/// How a model's probabilities are made to come true.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrationDef {
    pub method: Method,
    pub share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_rate: Option<f64>,
}

const SHARE: f64 = 0.2;
const SHARE_RANGE: (f64, f64) = (0.01, 0.9);

impl CalibrationDef {
    pub(super) fn plan(&self) -> CalibrationPlan {
        CalibrationPlan { calibration: Calibration { method: self.method, target_rate: self.target_rate }, share: self.share }
    }
}

impl Word for Method {
    const WHAT: &'static str = "method of calibration";
    const WORDS: &'static [(&'static str, Self)] = &Method::ALL;
}

/// What stands under `calibration` in a model's table.
pub(super) fn read(model: &mut Reader<'_>) -> Option<CalibrationDef> {
    if model.holds_text("calibration") {
        let method: Method = model.word("calibration")?;
        if method == Method::PriorShift {
            let problem = Problem::new("missing", "a shift of the prior needs the rate it goes to");
            model.wrong("calibration", problem.hint("write `calibration = { method = \"prior_shift\", target_rate = 0.02 }`"));
            return None;
        }
        return Some(CalibrationDef { method, share: SHARE, target_rate: None });
    }
    let mut t = model.table("calibration", "the calibration")?;
    t.require("method", "one of platt, isotonic, beta, prior_shift: `method = \"isotonic\"`");
    let method: Option<Method> = t.word("method");
    let share = t.number("share", SHARE_RANGE.0, SHARE_RANGE.1).unwrap_or(SHARE);
    if method == Some(Method::PriorShift) {
        t.require("target_rate", "the share of positives where the model is used: `target_rate = 0.02`");
    }
    let target_rate = t.number("target_rate", 0.0, 1.0);
    let certain = target_rate.is_some_and(|rate| rate == 0.0 || rate == 1.0);
    if certain {
        let problem = Problem::new("out_of_range", "a rate of 0 or 1 leaves nothing to tell apart");
        t.wrong("target_rate", problem.hint("it must be above 0 and below 1"));
    }
    t.finish();
    (!certain).then_some(CalibrationDef { method: method?, share, target_rate })
}

impl JsonSchema for CalibrationDef {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Calibration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let methods: Vec<&str> = Method::ALL.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "anyOf": [
                { "type": "string", "enum": methods },
                {
                    "type": "object",
                    "properties": {
                        "method": { "type": "string", "enum": methods },
                        "share": {
                            "type": "number", "minimum": SHARE_RANGE.0, "maximum": SHARE_RANGE.1,
                            "description": format!("Part of the training rows, the newest, that the curve is fitted to; default {SHARE}."),
                        },
                        "target_rate": {
                            "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1,
                            "description": "The share of positives where the model is used, when it is not that of the rows.",
                        },
                    },
                    "required": ["method"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}
