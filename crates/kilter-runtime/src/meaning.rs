//! What a model's inputs and a feature's line mean, whatever their names and windows are.

use std::collections::BTreeSet;

use kilter_features::FeatureInfo;
use kilter_pipeline::Plan;

/// A hash of everything that says what a model's inputs are: their expressions, and the features and columns that they read.
pub fn meaning(plan: &Plan, model: usize) -> String {
    let model = &plan.models[model];
    let source = &plan.sources[model.context.source.0 as usize];
    let column = |c: &usize| source.schema.fields.get(*c).map(|f| format!("column {}: {}", f.name, f.data_type));
    let used = |slot: usize| model.inputs.iter().any(|i| i.expr.slots().contains(&slot));
    let mut behind: BTreeSet<String> = model.inputs.iter().flat_map(|i| i.expr.slots()).filter_map(column).collect();
    for lookup in &model.context.lookups {
        let view = &plan.views[lookup.view];
        for (_, f) in view.features().iter().enumerate().filter(|(i, _)| used(lookup.first_slot + i)) {
            let key: Vec<_> = lookup.key.iter().filter_map(column).collect();
            // The name of its state says what a view reads of others.
            behind.extend(view.needs().next().map(|_| format!("reads others: {}", view.state_name())));
            behind.extend(key.iter().cloned());
            behind.insert(format!(
                "view {} of {} by {:?} at {key:?} where {:?} {:?} {:?} {}: {} {} {} {} {:?} {:?} {:?}",
                view.name(),
                plan.sources[view.source().0 as usize].name,
                view.entity(),
                view.filter(),
                view.ttl(),
                view.time_zone(),
                view.changes(),
                f.name,
                f.data_type,
                line_of(f),
                f.over,
                f.hop,
                f.default,
                f.rests_on
            ));
        }
    }
    let inputs: Vec<String> = model.inputs.iter().map(|i| format!("{} = {}", i.name, i.text)).collect();
    let text = format!("{} self {} {inputs:?} {behind:?}", source.name, model.include_self);
    blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
}

/// A feature's line without its windows: what one window means does not depend on the others beside it.
pub fn line_of(feature: &FeatureInfo) -> &str {
    let text = feature.text.as_str();
    // Case folding ASCII keeps every byte in its place.
    let windowed = !matches!(feature.over.as_str(), "" | "lifetime");
    let cut = windowed.then_some(()).and_then(|()| text.to_ascii_lowercase().rfind(" over "));
    cut.map_or(text, |at| text[..at].trim_end())
}
