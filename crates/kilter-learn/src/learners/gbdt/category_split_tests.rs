use super::super::MonotoneMethod;
use super::super::histogram::{Fields, Scale};
use super::super::split::{UNBOUNDED, leaf_value};
use super::*;
use kilter_stats::Rng;

fn rules(scale: Scale, lambda: f64, min_rows: u64) -> Rules<'static> {
    Rules {
        lambda,
        min_rows,
        min_hessian: 0.0,
        min_gain: 0.0,
        scale,
        cuts: &[],
        monotone: &[],
        monotone_method: MonotoneMethod::Basic,
        categories: None,
        interactions: None,
    }
}

fn plain(one_by_one: usize) -> CategoryRules<'static> {
    CategoryRules { columns: &[], smooth: 0.0, l2: 0.0, most_in_set: 255, most_one_by_one: one_by_one, min_group_rows: 1 }
}

/// Some rows in each of some categories, of bins 0 to `last_bin`; few different words make equal ratios.
fn random_sums(rng: &mut Rng, last_bin: u8, coarse: bool) -> Vec<Sums> {
    let mut sums = vec![Sums::default(); usize::from(last_bin) + 1];
    for own in &mut sums {
        for _ in 0..rng.below(6) {
            let g = if coarse { 4_096 * (rng.below(5) as i16 - 2) } else { rng.next_u64() as i16 };
            let h = if coarse { 8_192 } else { 1 + (rng.next_u64() as u16 >> 1) };
            *own = own.with(&Sums { gradient: i64::from(g), hessian: u64::from(h), count: 1 });
        }
    }
    sums
}

fn total_of(sums: &[Sums]) -> Sums {
    sums.iter().fold(Sums::default(), |total, sums| total.with(sums))
}

/// The best score over every subset of the bins that are there.
fn brute_force(rules: &Rules<'_>, of_bins: &[Sums], total: &Sums, fits: impl Fn(u32) -> bool) -> Option<f64> {
    let there: Vec<&Sums> = of_bins.iter().filter(|sums| sums.count > 0).collect();
    let subsets = (1u32..(1 << there.len()) - 1).filter(|&subset| fits(subset));
    let score = |subset: u32| {
        let chosen = there.iter().enumerate().filter(|(at, _)| subset >> at & 1 == 1);
        let left = chosen.fold(Sums::default(), |sums, (_, own)| sums.with(own));
        let right = total.without(&left);
        let side = |sums: &Sums| {
            let (g, h) = (rules.scale.gradient(sums), rules.scale.hessian(sums) + rules.lambda);
            let value = leaf_value(g, h, UNBOUNDED);
            -(2.0 * g * value + h * value * value)
        };
        (left.count >= rules.min_rows && right.count >= rules.min_rows).then(|| side(&left) + side(&right))
    };
    subsets.filter_map(score).max_by(f64::total_cmp)
}

#[test]
fn the_best_of_all_subsets_is_found() {
    let mut rng = Rng::seeded(1);
    let mut found = 0;
    for turn in 0..400 {
        let last_bin = 1 + rng.below(9) as u8;
        let sums = random_sums(&mut rng, last_bin, turn % 3 == 0);
        let total = total_of(&sums);
        let rules = rules(Scale::fitting(Fields::FINE, 1.0, 1.0), 0.0, 1);
        let best_of_all = brute_force(&rules, &sums, &total, |_| true);
        let best = best(&rules, &plain(0), &sums, &total, UNBOUNDED, 0.0);
        let (Some(best), Some(expected)) = (best, best_of_all.filter(|&score| score > 0.0)) else {
            assert!(best.is_none() && best_of_all.is_none_or(|score| score <= 0.0), "turn {turn}: {best:?} {best_of_all:?}");
            continue;
        };
        assert!((best.score / expected - 1.0).abs() < 1e-12, "turn {turn}: {} of {expected}", best.score);
        found += 1;
    }
    assert!(found > 300, "{found}");
}

#[test]
fn few_categories_are_tried_one_against_the_rest() {
    let mut rng = Rng::seeded(2);
    for turn in 0..200 {
        let last_bin = 3 + rng.below(5) as u8;
        let sums = random_sums(&mut rng, last_bin, turn % 2 == 0);
        let total = total_of(&sums);
        let rules = rules(Scale::fitting(Fields::FINE, 1.0, 1.0), 0.7, 2);
        let expected = brute_force(&rules, &sums, &total, |subset| subset.count_ones() == 1);
        let best = best(&rules, &plain(10), &sums, &total, UNBOUNDED, 0.0);
        assert_eq!(best.map(|best| best.score), expected.filter(|&score| score > 0.0), "turn {turn}");
    }
}

/// Whatever the rules: a set's sums are those of its bins, both sides keep their limits, and what was not there follows the larger side.
#[test]
fn a_set_says_of_every_bin_where_it_goes() {
    let mut rng = Rng::seeded(3);
    let mut found = 0;
    for turn in 0..400 {
        let last_bin = 5 + rng.below(250) as u8;
        let sums = random_sums(&mut rng, last_bin, turn % 5 == 0);
        let total = total_of(&sums);
        let rules = rules(Scale::fitting(Fields::FINE, 1.0, 1.0), 1.0, 1 + rng.below(20));
        let categories = CategoryRules {
            smooth: rng.below(4) as f64,
            l2: rng.uniform(),
            most_in_set: 1 + rng.below(20) as usize,
            min_group_rows: 1 + rng.below(10),
            ..plain(4)
        };
        let Some(best) = best(&rules, &categories, &sums, &total, UNBOUNDED, 0.1) else { continue };
        found += 1;
        let of_bin = |bin: u8| sums.get(usize::from(bin)).copied().unwrap_or_default();
        let count = |bin: u8| of_bin(bin).count;
        let inside = (0..=255).filter(|&bin| best.set.has(bin));
        let left = inside.clone().fold(Sums::default(), |all, bin| all.with(&of_bin(bin)));
        assert_eq!(left, best.left);
        let right = total.without(&left);
        assert!(left.count >= rules.min_rows && right.count >= rules.min_rows.max(categories.min_group_rows));
        let chosen = inside.filter(|&bin| count(bin) > 0);
        assert!(chosen.clone().count() <= categories.most_in_set && chosen.clone().all(|bin| count(bin) as f64 >= categories.smooth));
        let absent_left = 2 * left.count >= total.count;
        assert!((0..=255).filter(|&bin| count(bin) == 0).all(|bin| best.set.has(bin) == absent_left), "turn {turn}");
    }
    assert!(found > 200, "{found}");
}
