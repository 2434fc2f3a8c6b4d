//! Decisions: a model and a policy over what is in reach of an event.

use kilter_core::{DataType, Problem};
use kilter_pipeline::{DecisionPlan, Rule};

use super::super::definitions::*;
use super::super::document::At;
use super::context::Context;
use super::{Found, Resolver};

pub(super) fn resolve(
    resolver: &mut Resolver<'_>,
    name: &str,
    def: &DecisionDef,
    contexts: &[(&str, Option<Context>)],
) -> Option<DecisionPlan> {
    let path = format!("decision.{name}");
    let what = format!("decision \"{name}\"");
    check_order(resolver, &path, &what, def);
    let Some(model_name) = &def.model else {
        let context = resolver.context(&path, &what, def.on.as_deref()?, &def.keys)?;
        let plan = plan(resolver, &path, &what, name, def, None, def.include_self, &context)?;
        if let Some((rule, text)) = uses_score(&plan) {
            let problem = Problem::new("no_score", "there is no score without a model");
            let what = format!("{what}, rule {}", rule + 1);
            resolver.text_problem(
                &format!("{path}.policy.{rule}.when"),
                &what,
                Some(text),
                problem.hint("name the `model` of the decision"),
            );
        } else if def.fallback.is_some() {
            let problem = Problem::new("misplaced", format!("{what} has no model, so it never falls back"));
            resolver.document.error(At::Key(&format!("{path}.fallback")), problem.hint("leave `fallback` out, or name a `model`"));
        }
        return Some(plan);
    };
    let found = resolver.model(&format!("{path}.model"), &what, model_name);
    for key in ["keys", "include_self"] {
        if resolver.document.has(&format!("{path}.{key}")) {
            let problem = Problem::new("misplaced", format!("{what} reads features as its model does"));
            let hint = format!("set `{key}` in [model.{model_name}]: a model must see in service what it saw in training");
            resolver.document.error(At::Key(&format!("{path}.{key}")), problem.hint(hint));
        }
    }
    let Found::Good(position) = found? else { return None };
    let model = resolver.definitions.model.get(model_name)?;
    if let Some(on) = def.on.as_ref().filter(|on| **on != model.on) {
        if let Some(Found::Good(_)) = resolver.source(&format!("{path}.on"), &what, on) {
            let problem = Problem::new("conflict", format!("{what} is on \"{on}\", but model \"{model_name}\" observes \"{}\"", model.on));
            resolver
                .document
                .error(At::Value(&format!("{path}.on")), problem.hint(format!("leave `on` out, or write `on = \"{}\"`", model.on)));
        }
        return None;
    }
    let context = contexts.iter().find(|(n, _)| n == model_name)?.1.as_ref()?;
    plan(resolver, &path, &what, name, def, Some(position), model.include_self, context)
}

/// The first rule that looks at the score.
fn uses_score(plan: &DecisionPlan) -> Option<(usize, &str)> {
    let score = plan.context.width;
    let rules = plan.policy.iter().enumerate();
    rules.filter(|(_, r)| r.when.as_ref().is_some_and(|w| w.slots().contains(&score))).find_map(|(i, r)| Some((i, r.text.as_deref()?)))
}

/// The last rule decides whatever is left, and only the last.
fn check_order(resolver: &Resolver<'_>, path: &str, what: &str, def: &DecisionDef) {
    if let Some(first) = def.policy.iter().position(|rule| rule.when.is_none())
        && first + 1 < def.policy.len()
    {
        let problem = Problem::new("unreachable", format!("{what}: the rules after this one are never reached, for it has no `when`"));
        resolver.document.error(At::Value(&format!("{path}.policy.{first}")), problem.hint("give it a `when`, or make it the last rule"));
    } else if def.policy.last().is_some_and(|rule| rule.when.is_some()) {
        let problem = Problem::new("undecided", format!("{what}: a case that no rule matches would have no outcome"));
        let last = def.policy.len() - 1;
        resolver.document.error(
            At::Value(&format!("{path}.policy.{last}")),
            problem.hint("end the policy with a rule without `when`: { outcome = \"approve\" }"),
        );
    }
}

#[allow(clippy::too_many_arguments)]
fn plan(
    resolver: &Resolver<'_>,
    path: &str,
    what: &str,
    name: &str,
    def: &DecisionDef,
    model: Option<usize>,
    include_self: bool,
    context: &Context,
) -> Option<DecisionPlan> {
    let mut plan = context.plan.clone();
    let score = plan.scope.add(None, "score", DataType::Float64);
    debug_assert_eq!(score, plan.width);
    let mut outcomes: Vec<String> = Vec::new();
    let mut outcome = |word: &String| match outcomes.iter().position(|o| o == word) {
        Some(position) => position,
        None => {
            outcomes.push(word.clone());
            outcomes.len() - 1
        }
    };
    let mut sound = true;
    let mut policy = Vec::new();
    for (i, rule) in def.policy.iter().enumerate() {
        let outcome = outcome(&rule.outcome);
        let Some(text) = &rule.when else {
            policy.push(Rule { when: None, text: None, outcome });
            continue;
        };
        let path = format!("{path}.policy.{i}.when");
        let what = format!("{what}, rule {}", i + 1);
        match resolver.condition(&path, &what, text, &plan.scope) {
            Ok(when) => policy.push(Rule { when: Some(when), text: Some(text.clone()), outcome }),
            Err(problem) => {
                sound = false;
                if let Some(problem) = context.explain(text, problem) {
                    resolver.text_problem(&path, &what, Some(text), problem);
                }
            }
        }
    }
    let fallback = def.fallback.as_ref().map(outcome);
    sound.then_some(DecisionPlan {
        name: name.to_owned(),
        source: plan.source,
        model,
        context: plan,
        policy,
        outcomes,
        fallback,
        reasons: def.reasons,
        include_self,
    })
}
