//! What a scorecard says of single inputs, under the inputs' full names.

use std::collections::BTreeMap;

use kilter_core::Problem;
use kilter_learn::Scorecard;
use kilter_learn::scorecard::Shape;

use super::super::document::At;
use super::Resolver;
use super::model::input_position;

/// The scorecard with full names; the directions under `monotone` become shapes.
pub(super) fn resolve(
    resolver: &Resolver<'_>,
    path: &str,
    scorecard: Scorecard,
    inputs: &[String],
    directions: &BTreeMap<usize, i8>,
) -> Option<Scorecard> {
    let names = Names { resolver, path, inputs };
    let shapes = names.full("shapes", scorecard.shapes);
    let cuts = names.full("cuts", scorecard.cuts);
    let special = names.full("special", scorecard.special);
    let (mut shapes, cuts, special) = (shapes?, cuts?, special?);
    for (&position, &direction) in directions {
        let shape = if direction > 0 { Shape::Increasing } else { Shape::Decreasing };
        if shapes.insert(inputs[position].clone(), shape).is_some() {
            let problem = Problem::new("duplicate", format!("input `{}` has a shape and a direction", inputs[position]));
            resolver.document.error(At::Key(&format!("{path}.monotone")), problem.hint("leave it out of `monotone` or of `shapes`"));
            return None;
        }
    }
    Some(Scorecard { shapes, cuts, special, ..scorecard })
}

struct Names<'a, 'd> {
    resolver: &'a Resolver<'d>,
    path: &'a str,
    inputs: &'a [String],
}

impl Names<'_, '_> {
    fn full<T>(&self, setting: &str, by_name: BTreeMap<String, T>) -> Option<BTreeMap<String, T>> {
        let mut found = BTreeMap::new();
        let mut sound = true;
        for (name, value) in by_name {
            match input_position(&name, self.inputs) {
                Some(position) => {
                    found.insert(self.inputs[position].clone(), value);
                }
                None => {
                    let problem = Problem::unknown("unknown_input", "input", &name, self.inputs.iter().map(String::as_str));
                    self.resolver.document.error(At::Key(&format!("{}.params.{setting}", self.path)), problem);
                    sound = false;
                }
            }
        }
        sound.then_some(found)
    }
}
