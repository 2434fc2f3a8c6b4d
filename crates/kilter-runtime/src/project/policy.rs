//! A policy put in the place of another, in the text of the definitions: everything around it stays as it was written.

use kilter_core::Problem;

use super::document::Document;
use super::report::{Diagnostic, Report, Severity};
use super::{Project, RuleDef, check_text};

/// The project with another policy of a decision; its `toml_text` is what the file would say.
///
/// # Errors
/// A policy that does not hold, with places in the changed text; a policy whose rules do not stand in one list.
pub fn with_policy(project: &Project, decision: &str, policy: &[RuleDef], file_name: &str) -> Result<Project, Report> {
    let text = &project.toml_text;
    let (document, _) = Document::parse(text, file_name)?;
    let place = document.value_span(&format!("decision.{decision}.policy"));
    let list = place.clone().filter(|place| text[place.clone()].starts_with('['));
    let Some(place) = list.filter(|place| !text[place.clone()].starts_with("[[")) else { return Err(not_a_list(decision, file_name)) };
    let changed = format!("{}{}{}", &text[..place.start], as_toml(policy), &text[place.end..]);
    let changed = check_text(&changed, file_name, &project.dir)?;
    let now = changed.definitions.decision.get(decision).map(|d| &d.policy[..]).unwrap_or_default();
    if now != policy { Err(not_a_list(decision, file_name)) } else { Ok(Project { shard: project.shard.clone(), ..changed }) }
}

/// The list as it stands in a definitions file, one rule a line.
pub fn as_toml(policy: &[RuleDef]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_string()).to_string();
    let rules = policy.iter().map(|rule| {
        let when = rule.when.as_ref().map(|when| format!("when = {}, ", quoted(when))).unwrap_or_default();
        format!("    {{ {when}outcome = {} }},\n", quoted(&rule.outcome))
    });
    format!("[\n{}]", rules.collect::<String>())
}

fn not_a_list(decision: &str, file_name: &str) -> Report {
    let problem = Problem::new("policy_in_tables", format!("the rules of decision \"{decision}\" do not stand in one list"))
        .hint("write them as `policy = [{ when = \"...\", outcome = \"...\" }, ...]`");
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: problem.code,
        message: problem.message,
        hint: problem.hint,
        file: file_name.to_string(),
        line: 0,
        column: 0,
        length: 0,
        excerpt: String::new(),
    };
    Report { problems: vec![diagnostic] }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"
[project]
name = "shop"

[source.payments]
time = "at"
columns = { at = "timestamp", amount = "float64" }

# Blocks what is large.
[decision.pay]
on = "payments"
policy = [{ when = "amount > 100", outcome = "block" }, { outcome = "accept" }] # for now
"#;

    fn project(text: &str) -> Project {
        check_text(text, "kilter.toml", Path::new("")).unwrap_or_else(|report| panic!("{report:?}"))
    }

    fn rule(when: Option<&str>, outcome: &str) -> RuleDef {
        RuleDef { when: when.map(str::to_string), outcome: outcome.to_string() }
    }

    #[test]
    fn only_the_list_changes() {
        let policy = [rule(Some("amount > 50"), "block"), rule(Some("amount > 20 and 'a\"b' = 'c'"), "review"), rule(None, "accept")];
        let changed = with_policy(&project(TEXT), "pay", &policy, "kilter.toml").unwrap();
        let list = as_toml(&policy);
        assert_eq!(changed.toml_text, TEXT.replace("[{ when = \"amount > 100\", outcome = \"block\" }, { outcome = \"accept\" }]", &list));
        assert_eq!(changed.plan.decisions[0].outcomes, ["block", "review", "accept"]);
        // The same again is the same text.
        assert_eq!(with_policy(&changed, "pay", &policy, "kilter.toml").unwrap().toml_text, changed.toml_text);
    }

    #[test]
    fn a_policy_that_does_not_hold_is_told_with_its_rule() {
        let policy = [rule(Some("amuont > 50"), "block"), rule(None, "accept")];
        let report = with_policy(&project(TEXT), "pay", &policy, "kilter.toml").unwrap_err();
        let problem = &report.problems[0];
        assert!(problem.message.contains("amuont") && problem.excerpt.contains("amuont > 50"), "{problem:?}");
        let open = [rule(Some("amount > 50"), "block")];
        assert_eq!(with_policy(&project(TEXT), "pay", &open, "kilter.toml").unwrap_err().problems[0].code, "undecided");
        assert!(with_policy(&project(TEXT), "pay", &[], "kilter.toml").is_err());
    }

    #[test]
    fn rules_in_tables_of_their_own_are_refused() {
        let text = TEXT.replace(
            "policy = [{ when = \"amount > 100\", outcome = \"block\" }, { outcome = \"accept\" }] # for now",
            "[[decision.pay.policy]]\nwhen = \"amount > 100\"\noutcome = \"block\"\n[[decision.pay.policy]]\noutcome = \"accept\"",
        );
        let report = with_policy(&project(&text), "pay", &[rule(None, "accept")], "kilter.toml").unwrap_err();
        assert_eq!(report.problems[0].code, "policy_in_tables");
    }
}
