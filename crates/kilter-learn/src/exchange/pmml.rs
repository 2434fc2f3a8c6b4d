//! Kilter's scorecards as PMML 4.4 `Scorecard`: the table of points, with a reason code for each input.
//!
//! What comes out of a row is its points, those of the table; bins are told by the numbers themselves, so every row falls into the bin that it
//! falls into here. Reasons are counted in points, rounded as the table has them: inputs whose parts differ by less than the rounding may change
//! places. The probability is not in the table, and not in the file.

use std::fmt::Write;

use crate::LearnError;
use crate::learners::scorecard::{Feature, ReasonsFrom, ScorecardModel};

/// Reasons that the file puts out.
const REASONS: usize = 4;

pub(super) fn scorecard(model: &ScorecardModel) -> Result<Vec<u8>, LearnError> {
    let features: Vec<&Feature> = model.used().collect();
    let Some(first) = features.first() else { return Err(LearnError::corrupt("a scorecard without an input")) };
    // Writing to a string cannot fail, here and below.
    let mut text = String::from(HEAD);
    text.push_str("  <DataDictionary>\n");
    for feature in &features {
        let _ = writeln!(text, "    <DataField name=\"{}\" optype=\"continuous\" dataType=\"double\"/>", escaped(&feature.name)?);
    }
    let (method, _) = baseline(model, first);
    let _ = writeln!(
        text,
        "  </DataDictionary>\n  <Scorecard modelName=\"scorecard\" functionName=\"regression\" initialScore=\"0\" useReasonCodes=\"true\" \
         reasonCodeAlgorithm=\"pointsBelow\" baselineMethod=\"{method}\">\n    <MiningSchema>"
    );
    for feature in &features {
        // Infinite numbers and missing ones have bins, so nothing is invalid.
        let _ = writeln!(text, "      <MiningField name=\"{}\" invalidValueTreatment=\"asIs\"/>", escaped(&feature.name)?);
    }
    text.push_str("    </MiningSchema>\n    <Output>\n      <OutputField name=\"points\" optype=\"continuous\" dataType=\"double\" feature=\"predictedValue\"/>\n");
    for rank in 1..=features.len().min(REASONS) {
        let _ = writeln!(
            text,
            "      <OutputField name=\"reason_{rank}\" optype=\"categorical\" dataType=\"string\" feature=\"reasonCode\" rank=\"{rank}\"/>"
        );
    }
    text.push_str("    </Output>\n    <Characteristics>\n");
    for feature in &features {
        characteristic(&mut text, feature, baseline(model, feature).1)?;
    }
    text.push_str("    </Characteristics>\n  </Scorecard>\n</PMML>\n");
    Ok(text.into_bytes())
}

const HEAD: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PMML xmlns=\"http://www.dmg.org/PMML-4_4\" version=\"4.4\">\n",
    "  <Header><Application name=\"Kilter\" version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"/></Header>\n"
);

/// What points below are counted from: PMML's word for it, and the number.
fn baseline(model: &ScorecardModel, feature: &Feature) -> (&'static str, f64) {
    let filled = || feature.bins.iter().filter(|bin| bin.counts.total() > 0.0);
    match model.reasons() {
        ReasonsFrom::Maximum => ("max", filled().map(|bin| bin.points).fold(f64::NEG_INFINITY, f64::max)),
        ReasonsFrom::Mean => {
            let total: f64 = filled().map(|bin| bin.counts.total()).sum();
            ("mean", filled().map(|bin| bin.counts.total() * bin.points).sum::<f64>() / total)
        }
    }
}

/// The bins of an input; the first whose condition holds counts.
fn characteristic(text: &mut String, feature: &Feature, baseline: f64) -> Result<(), LearnError> {
    let name = escaped(&feature.name)?;
    let _ = writeln!(text, "      <Characteristic name=\"{name}\" reasonCode=\"{name}\" baselineScore=\"{baseline}\">");
    let plain = feature.cuts.len() + 1;
    let mut attribute = |bin: usize, operator: &str, value: Option<f64>| {
        let value = value.map(|value| format!(" value=\"{value:?}\"")).unwrap_or_default();
        let _ = writeln!(
            text,
            "        <Attribute partialScore=\"{}\"><SimplePredicate field=\"{name}\" operator=\"{operator}\"{value}/></Attribute>",
            feature.bins[bin].points
        );
    };
    for (at, &special) in feature.special.iter().enumerate() {
        attribute(plain + at, "equal", Some(special));
    }
    for (at, &cut) in feature.cuts.iter().enumerate() {
        attribute(at, "lessOrEqual", Some(cut));
    }
    attribute(plain - 1, "isNotMissing", None);
    attribute(plain + feature.special.len(), "isMissing", None);
    text.push_str("      </Characteristic>\n");
    Ok(())
}

/// A text as an attribute's value; what XML has no way to write is refused.
fn escaped(text: &str) -> Result<String, LearnError> {
    if let Some(odd) = text.chars().find(|&c| c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        return Err(LearnError::Foreign {
            format: "PMML",
            at: String::new(),
            what: format!("XML has no way to write {odd:?}, which the input name {text:?} has"),
            hint: "name the input otherwise and train again",
        });
    }
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;"))
}
