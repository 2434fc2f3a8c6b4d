//! Words that belong to somebody's desk: paths of one machine, and marks for work that was put off.

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law = Law { says: "no tracked file holds paths of one machine or marks of work put off", check };

// Put together here, so that this file does not hold them either.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const PLACES: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &house.files {
        for (line, word) in scan(&house.text(file).unwrap_or_default()) {
            breaches.push(Breach::new(format!("{file}:{line}"), format!("holds `{word}`")));
        }
    }
    breaches
}

fn scan(text: &str) -> Vec<(usize, &'static str)> {
    let alone = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            !line[..at].ends_with(|c: char| c.is_alphanumeric()) && !line[at + word.len()..].starts_with(|c: char| c.is_alphanumeric())
        })
    };
    let of_line = |line: &str| {
        let marks = MARKS.into_iter().filter(|m| alone(line, m)).collect::<Vec<_>>();
        marks.into_iter().chain(PLACES.into_iter().filter(|p| line.contains(p))).collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(|(at, line)| of_line(line).into_iter().map(move |word| (at + 1, word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn marks_are_seen_where_they_stand_alone() {
        let text = format!("fine\n// {}: later\n\"{}x\"\nMAST{}S\n", MARKS[0], PLACES[0], MARKS[0]);
        assert_eq!(scan(&text), [(2, MARKS[0]), (3, PLACES[0])]);
    }
}
