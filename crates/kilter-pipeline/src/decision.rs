//! What the pipeline decided, and how a decision lies in the decision log.
//!
//! Names are written once: a *layout* record holds the decision's inputs and outcomes, and each decision record names its
//! layout by that record's offset. A reader needs no definitions.

use kilter_core::record::{Cursor, RecordError};
use kilter_core::{EventTime, Offset};
use serde::{Deserialize, Serialize};

const LAYOUT: u8 = 1;
const DECISION: u8 = 2;
const ERASED: u8 = 3;

/// One decision, by positions in its [`Layout`].
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Position in `Plan::decisions`.
    pub decision: usize,
    /// The event decided on; everything before it in the log was known.
    pub offset: Offset,
    pub time: EventTime,
    /// Version of the champion that scored; none: rules alone, or the fallback.
    pub version: Option<u32>,
    /// Probability, predicted number or anomaly score; none without a model.
    pub score: Option<f64>,
    /// On the scale of the model's link, which is log-odds for most that predict a probability; 0 without a model.
    pub margin: f64,
    /// Position in the decision's outcomes.
    pub outcome: usize,
    /// Position of the policy's rule that decided; none: the fallback.
    pub rule: Option<usize>,
    /// What the model saw; NaN where missing.
    pub inputs: Vec<f64>,
    /// What pushed the score up the most, strongest first.
    pub reasons: Vec<Reason>,
}

/// The part of an input, or of a group of inputs, in a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reason {
    /// Position in the model's inputs, or in the layout's reasons where it has groups.
    pub input: usize,
    /// What this input adds to the margin, against the training data's mean prediction.
    pub contribution: f64,
}

/// The names behind the positions of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub decision: String,
    pub model: Option<String>,
    pub inputs: Vec<String>,
    /// What reasons are of, where inputs are grouped for them; empty: of the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    pub outcomes: Vec<String>,
    pub rules: Vec<String>,
    /// Hash of the definitions the decision was made under.
    pub definitions: String,
}

/// A record of the decision log.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Layout(Layout),
    /// The layout's offset in the decision log, and the decision.
    Decision(u64, Decision),
    /// The same for a decision whose event was erased.
    Erased(u64, ErasedDecision),
}

/// What is left of a decision whose event was erased: enough for its id, and that it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedDecision {
    /// Position in `Plan::decisions`.
    pub decision: usize,
    pub offset: Offset,
    pub time: EventTime,
    /// The number of the erasure.
    pub erasure: u64,
}

impl Layout {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT);
        // Plain strings: serialising them cannot fail.
        out.extend_from_slice(&serde_json::to_vec(self).unwrap_or_default());
    }

    /// The name of a reason of a decision, and what the model saw there; none for a group.
    pub fn reason<'a>(&'a self, reason: &Reason, inputs: &[f64]) -> (&'a str, Option<f64>) {
        let names = if self.reasons.is_empty() { &self.inputs } else { &self.reasons };
        let name = names.get(reason.input).map_or("", String::as_str);
        let input = self.inputs.iter().position(|input| input == name);
        (name, input.and_then(|input| inputs.get(input).copied()))
    }
}

impl Decision {
    pub fn encode(&self, layout: u64, out: &mut Vec<u8>) {
        out.push(DECISION);
        out.extend_from_slice(&layout.to_le_bytes());
        out.extend_from_slice(&(self.decision as u16).to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.version.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.score.unwrap_or(f64::NAN).to_bits().to_le_bytes());
        out.extend_from_slice(&self.margin.to_bits().to_le_bytes());
        out.extend_from_slice(&(self.outcome as u16).to_le_bytes());
        out.extend_from_slice(&self.rule.map_or(u16::MAX, |r| r as u16).to_le_bytes());
        out.extend_from_slice(&(self.inputs.len() as u16).to_le_bytes());
        for x in &self.inputs {
            out.extend_from_slice(&x.to_bits().to_le_bytes());
        }
        out.extend_from_slice(&(self.reasons.len() as u16).to_le_bytes());
        for reason in &self.reasons {
            out.extend_from_slice(&(reason.input as u16).to_le_bytes());
            out.extend_from_slice(&reason.contribution.to_bits().to_le_bytes());
        }
    }

    /// The first thing that differs to the last bit, in words; none: the decisions are the same.
    pub fn difference(&self, other: &Decision, layout: &Layout) -> Option<String> {
        let name = |i: usize| layout.inputs.get(i).map_or("?", String::as_str);
        if self.time != other.time {
            return Some(format!("time: {} against {}", self.time, other.time));
        }
        if self.version != other.version {
            return Some(format!("model version: {:?} against {:?}", self.version, other.version));
        }
        if self.inputs.len() != other.inputs.len() {
            return Some(format!("number of inputs: {} against {}", self.inputs.len(), other.inputs.len()));
        }
        for (i, (a, b)) in self.inputs.iter().zip(&other.inputs).enumerate() {
            if a.to_bits() != b.to_bits() {
                return Some(format!("input {}: {a} against {b}", name(i)));
            }
        }
        let bits = |x: Option<f64>| x.map(f64::to_bits);
        if bits(self.score) != bits(other.score) || self.margin.to_bits() != other.margin.to_bits() {
            return Some(format!("score: {:?} against {:?}", self.score, other.score));
        }
        if self.outcome != other.outcome || self.rule != other.rule {
            let outcome = |d: &Decision| layout.outcomes.get(d.outcome).cloned().unwrap_or_default();
            return Some(format!("outcome: {} by rule {:?} against {} by rule {:?}", outcome(self), self.rule, outcome(other), other.rule));
        }
        let same = self.reasons.len() == other.reasons.len()
            && self
                .reasons
                .iter()
                .zip(&other.reasons)
                .all(|(a, b)| a.input == b.input && a.contribution.to_bits() == b.contribution.to_bits());
        // Between versions of Kilter the last bits of an explanation may change, those of a score do not.
        let close = || {
            let pairs = self.reasons.iter().zip(&other.reasons);
            self.reasons.len() == other.reasons.len()
                && pairs.clone().all(|(a, b)| a.input == b.input && (a.contribution - b.contribution).abs() <= 1e-9)
        };
        (!same).then(|| {
            let how = if close() { " (equal to 1e-9: explained by another version of Kilter?)" } else { "" };
            format!("reasons: {:?} against {:?}{how}", self.reasons, other.reasons)
        })
    }
}

impl ErasedDecision {
    pub fn encode(&self, layout: u64, out: &mut Vec<u8>) {
        out.push(ERASED);
        out.extend_from_slice(&layout.to_le_bytes());
        out.extend_from_slice(&(self.decision as u16).to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.erasure.to_le_bytes());
    }
}

/// Reads a record of the decision log.
pub fn decode(bytes: &[u8]) -> Result<Entry, RecordError> {
    let mut cursor = Cursor::new(bytes);
    match cursor.u8()? {
        LAYOUT => serde_json::from_slice(cursor.rest).map(Entry::Layout).map_err(|e| RecordError { detail: e.to_string() }),
        DECISION => {
            let layout = cursor.u64()?;
            let decision = cursor.u16()? as usize;
            let offset = cursor.u64()?;
            let time = EventTime(cursor.i64()?);
            let version = Some(cursor.u32()?).filter(|v| *v != 0);
            let score = Some(cursor.f64()?).filter(|s| !s.is_nan());
            let margin = cursor.f64()?;
            let outcome = cursor.u16()? as usize;
            let rule = Some(cursor.u16()?).filter(|r| *r != u16::MAX).map(usize::from);
            let inputs = (0..cursor.u16()?).map(|_| cursor.f64()).collect::<Result<_, _>>()?;
            let reasons = (0..cursor.u16()?)
                .map(|_| Ok(Reason { input: cursor.u16()? as usize, contribution: cursor.f64()? }))
                .collect::<Result<_, RecordError>>()?;
            Ok(Entry::Decision(layout, Decision { decision, offset, time, version, score, margin, outcome, rule, inputs, reasons }))
        }
        ERASED => {
            let layout = cursor.u64()?;
            let (decision, offset) = (cursor.u16()? as usize, cursor.u64()?);
            let (time, erasure) = (EventTime(cursor.i64()?), cursor.u64()?);
            Ok(Entry::Erased(layout, ErasedDecision { decision, offset, time, erasure }))
        }
        kind => Err(RecordError { detail: format!("unknown kind {kind} in the decision log") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> Decision {
        Decision {
            decision: 1,
            offset: 42,
            time: EventTime(7),
            version: Some(3),
            score: Some(0.25),
            margin: -1.0986,
            outcome: 2,
            rule: Some(1),
            inputs: vec![1.5, f64::NAN, -0.0],
            reasons: vec![Reason { input: 2, contribution: 0.5 }],
        }
    }

    fn layout() -> Layout {
        Layout {
            decision: "loan".into(),
            model: Some("risk".into()),
            inputs: vec!["a".into(), "b".into(), "c".into()],
            reasons: Vec::new(),
            outcomes: vec!["decline".into(), "review".into(), "approve".into()],
            rules: vec!["score > 0.5".into()],
            definitions: "abc".into(),
        }
    }

    #[test]
    fn a_decision_survives_the_log_bit_for_bit() {
        let mut bytes = Vec::new();
        decision().encode(9, &mut bytes);
        let Ok(Entry::Decision(9, read)) = decode(&bytes) else { panic!("not a decision") };
        assert_eq!(read.difference(&decision(), &layout()), None);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let stub = ErasedDecision { decision: 1, offset: 42, time: EventTime(7), erasure: 99 };
        let mut bytes = Vec::new();
        stub.encode(9, &mut bytes);
        assert_eq!(decode(&bytes), Ok(Entry::Erased(9, stub)));
        let mut bytes = Vec::new();
        layout().encode(&mut bytes);
        assert_eq!(decode(&bytes), Ok(Entry::Layout(layout())));
    }

    /// A layout from before there were groups is read as it was.
    #[test]
    fn a_reason_is_of_an_input_or_of_a_group() {
        let mut text = Vec::new();
        layout().encode(&mut text);
        assert!(!String::from_utf8_lossy(&text).contains("reasons"));
        let reason = |input| Reason { input, contribution: 0.5 };
        assert_eq!(layout().reason(&reason(2), &[1.5, 2.0, 7.0]), ("c", Some(7.0)));
        let grouped = Layout { reasons: vec!["a".into(), "others".into()], ..layout() };
        assert_eq!(grouped.reason(&reason(0), &[1.5, 2.0, 7.0]), ("a", Some(1.5)));
        assert_eq!(grouped.reason(&reason(1), &[1.5, 2.0, 7.0]), ("others", None));
        let mut bytes = Vec::new();
        grouped.encode(&mut bytes);
        assert_eq!(decode(&bytes), Ok(Entry::Layout(grouped)));
    }

    #[test]
    fn every_difference_is_named() {
        let change = |edit: fn(&mut Decision)| {
            let mut other = decision();
            edit(&mut other);
            decision().difference(&other, &layout()).unwrap_or_default()
        };
        assert!(change(|d| d.inputs[2] = 0.0).contains("input c"), "0.0 and -0.0 are not the same bits");
        assert!(change(|d| d.score = Some(0.250_000_000_000_000_06)).contains("score"));
        assert!(change(|d| d.outcome = 0).contains("outcome"));
        assert!(change(|d| d.version = Some(4)).contains("version"));
        assert!(change(|d| d.reasons.clear()).contains("reasons"));
        let (bits, more) = (change(|d| d.reasons[0].contribution = 0.5f64.next_up()), change(|d| d.reasons[0].contribution = 0.500_001));
        assert!(bits.contains("equal to 1e-9") && more.contains("reasons") && !more.contains("equal"), "{bits}; {more}");
        assert_eq!(change(|_| ()), "");
    }
}
