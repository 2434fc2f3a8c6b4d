//! Personal data and where it goes: from columns through features, whatever they rest on, to models.
//!
//! A feature is personal data when a column that is told to be so enters its line, the condition of its view or the key of its entity, or
//! when another feature that is enters it, derived or of another view; unless its own line says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use kilter_features::expr::names;
use kilter_features::{FeatureInfo, View};
use kilter_pipeline::{ContextPlan, ServicePlan};

use super::Project;
use super::definitions::{FeatureDef, FeaturesDef};

/// Of every feature, by view and position, the columns that make it personal data: `payments.email`. Empty: it is none.
#[derive(Clone, Debug, Default)]
pub struct PersonalData {
    features: Vec<Vec<BTreeSet<String>>>,
}

impl PersonalData {
    pub fn of(project: &Project) -> PersonalData {
        let plan = &project.plan;
        let mut done: BTreeMap<usize, Vec<BTreeSet<String>>> = BTreeMap::new();
        for view in 0..plan.views.len() {
            // Those it reads first; there are no circles.
            for view in plan.with_needs([view]).into_iter().rev() {
                if !done.contains_key(&view) {
                    let features = of_view(project, view, &done);
                    done.insert(view, features);
                }
            }
        }
        PersonalData { features: done.into_values().collect() }
    }

    /// The columns that make a feature personal data.
    pub fn feature(&self, view: usize, feature: usize) -> &BTreeSet<String> {
        &self.features[view][feature]
    }

    /// Of features of a service.
    pub fn of_service(&self, service: &ServicePlan, slots: &[usize]) -> BTreeSet<String> {
        let of = |slot: &usize| {
            let lookup = &service.lookups[service.lookup_of(*slot)?];
            Some(self.feature(lookup.view, slot - lookup.first_slot))
        };
        slots.iter().filter_map(of).flatten().cloned().collect()
    }

    /// Of what is made of an observation's columns and of features in its reach.
    pub fn of_slots(&self, project: &Project, context: &ContextPlan, slots: &[usize]) -> BTreeSet<String> {
        let source = &project.plan.sources[usize::from(context.source.0)];
        let mut found = BTreeSet::new();
        for slot in slots {
            if let Some(field) = source.schema.fields.get(*slot) {
                found.extend(personal_column(project, &source.name, &field.name));
            } else if let Some(lookup) = context.lookups.iter().rev().find(|l| l.first_slot <= *slot) {
                found.extend(self.feature(lookup.view, slot - lookup.first_slot).iter().cloned());
            }
        }
        found
    }
}

/// The column's full name, if it is told to be personal data.
pub fn personal_column(project: &Project, source: &str, column: &str) -> Option<String> {
    let def = project.definitions.source.get(source)?.columns.get(column)?;
    def.personal_data.then(|| format!("{source}.{column}"))
}

fn of_view(project: &Project, view: usize, done: &BTreeMap<usize, Vec<BTreeSet<String>>>) -> Vec<BTreeSet<String>> {
    let plan = &project.plan;
    let view = &plan.views[view];
    let source = &plan.sources[usize::from(view.source().0)].name;
    let Some(def) = project.definitions.features.get(view.name()) else { return vec![BTreeSet::new(); view.features().len()] };
    // What a text of the view names: columns of its source, features of views that it reads.
    let of_text = |text: &str| {
        let mut found = BTreeSet::new();
        for (qualifier, name) in names(text) {
            let other = qualifier.as_deref().filter(|q| q != source).and_then(|q| plan.view(q));
            match other.and_then(|v| Some((v, plan.views[v].features().iter().position(|f| f.name == name)?))) {
                Some((other, feature)) => found.extend(done.get(&other).into_iter().flat_map(|f| f[feature].iter().cloned())),
                None => found.extend(personal_column(project, source, &name)),
            }
        }
        found
    };
    let mut all: BTreeSet<String> = view.entity().iter().filter_map(|column| personal_column(project, source, column)).collect();
    all.extend(def.filter.iter().flat_map(|filter| of_text(filter)));
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for feature in view.features() {
        let mut own = match feature.rests_on.is_empty() {
            true => all.union(&of_text(&feature.text)).cloned().collect(),
            // A derived feature names those before it.
            false => {
                let named: BTreeSet<String> = names(&feature.text).into_iter().map(|(_, name)| name).collect();
                let before = view.features().iter().zip(&found).filter(|(f, _)| named.contains(&f.name));
                before.flat_map(|(_, personal)| personal.iter().cloned()).collect::<BTreeSet<String>>()
            }
        };
        match line(def, feature).and_then(|line| line.personal_data) {
            Some(false) => own.clear(),
            Some(true) => drop(own.insert(format!("{}.{}", view.name(), feature.name))),
            None => {}
        }
        found.push(own);
    }
    found
}

/// The line of the file that a feature comes from.
fn line<'d>(def: &'d FeaturesDef, feature: &FeatureInfo) -> Option<&'d FeatureDef> {
    let lines = def.columns.iter().chain(def.derived.iter());
    let mut fitting: Vec<(&str, &FeatureDef)> =
        lines.filter(|(name, line)| feature.name.starts_with(name) && line.value == feature.text).collect();
    fitting.sort_by_key(|(name, _)| name.len());
    fitting.pop().map(|(_, line)| line)
}

/// The line of the file that a feature comes from, as people have described it.
pub fn described<'d>(project: &'d Project, view: &View, feature: &FeatureInfo) -> Option<&'d FeatureDef> {
    line(project.definitions.features.get(view.name())?, feature)
}
