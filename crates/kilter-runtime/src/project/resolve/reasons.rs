//! `reason_groups` of a model: inputs that give one reason together.

use kilter_core::Problem;
use kilter_pipeline::ReasonPlan;

use super::super::definitions::Named;
use super::super::document::At;
use super::Resolver;
use super::model::input_position;

/// What reasons are of, in the order of the inputs: a group stands where its first input does. None: something is wrong, which is said.
pub(super) fn resolve(resolver: &Resolver<'_>, path: &str, groups: &Named<Vec<String>>, inputs: &[String]) -> Option<ReasonPlan> {
    let mut group_of: Vec<Option<&str>> = vec![None; inputs.len()];
    let mut sound = true;
    for (group, members) in groups.iter() {
        if inputs.iter().any(|input| input == group) {
            let problem = Problem::new("duplicate", format!("the group \"{group}\" has the name of an input"));
            resolver.document.error(At::Key(&format!("{path}.reason_groups.{group}")), problem.hint("give the group another name"));
            sound = false;
        }
        for (at, member) in members.iter().enumerate() {
            let place =
                resolver.document.first_of(&[format!("{path}.reason_groups.{group}.{at}"), format!("{path}.reason_groups.{group}")]);
            let found: Vec<usize> = match member.contains('*') {
                true => (0..inputs.len()).filter(|&input| matches(member, &inputs[input])).collect(),
                false => input_position(member, inputs).into_iter().collect(),
            };
            if found.is_empty() {
                let mut problem = Problem::unknown("unknown_input", "input", member, inputs.iter().map(String::as_str));
                if member.contains('*') {
                    problem = Problem::new("unknown_input", format!("no input is called like `{member}`"));
                    problem = problem.hint(format!("the inputs are {}", kilter_core::list(inputs.iter().map(String::as_str))));
                }
                resolver.document.error(At::Value(&place), problem);
                sound = false;
            }
            for input in found {
                if let Some(other) = group_of[input].replace(group).filter(|other| *other != group) {
                    let text = format!("input `{}` is in the groups \"{other}\" and \"{group}\"", inputs[input]);
                    let problem =
                        Problem::new("duplicate", text).hint("an input gives its part to one reason; leave it out of one of the two");
                    resolver.document.error(At::Value(&place), problem);
                    sound = false;
                }
            }
        }
    }
    let mut plan = ReasonPlan { names: Vec::new(), of_input: Vec::new().into() };
    let of_input: Vec<usize> = inputs
        .iter()
        .zip(group_of)
        .map(|(input, group)| {
            let name = group.unwrap_or(input);
            plan.names.iter().position(|known| known == name).unwrap_or_else(|| {
                plan.names.push(name.to_owned());
                plan.names.len() - 1
            })
        })
        .collect();
    sound.then(|| ReasonPlan { of_input: of_input.into(), ..plan })
}

/// Whether a name is like the pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(after) = name.strip_prefix(head) else { return false };
    (0..=after.len()).any(|skipped| after.is_char_boundary(skipped) && matches(rest, &after[skipped..]))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("account.turnover_*", "account.turnover_7d", true),
            ("account.*_7d", "account.turnover_7d", true),
            ("account.*_7d", "account.turnover_30d", false),
            ("*", "x", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("account.turnover", "account.turnover_7d", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
