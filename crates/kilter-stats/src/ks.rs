//! Two-sample Kolmogorov-Smirnov test: the largest gap between two empirical distribution functions.

/// Result of [`ks_two_sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KsTest {
    /// Largest gap, 0 to 1.
    pub statistic: f64,
    /// Asymptotic two-sided p-value with Stephens' small-sample correction; conservative when values repeat.
    pub p_value: f64,
}

/// Compares two samples of any order; NaN is left out. `None` when either sample has no values.
pub fn ks_two_sample(a: &[f64], b: &[f64]) -> Option<KsTest> {
    let (a, b) = (sorted(a), sorted(b));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (mut i, mut j, mut statistic) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        let value = a[i].min(b[j]);
        while i < a.len() && a[i] <= value {
            i += 1;
        }
        while j < b.len() && b[j] <= value {
            j += 1;
        }
        statistic = statistic.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let effective = libm::sqrt(a.len() as f64 * b.len() as f64 / (a.len() + b.len()) as f64);
    Some(KsTest { statistic, p_value: kolmogorov_tail((effective + 0.12 + 0.11 / effective) * statistic) })
}

/// P(K > x) of the Kolmogorov distribution: 2 sum (-1)^(k-1) exp(-2 k^2 x^2).
fn kolmogorov_tail(x: f64) -> f64 {
    // The alternating series is useless near zero, where the tail is one to many digits.
    if x < 0.2 {
        return 1.0;
    }
    let mut sum = 0.0;
    for k in 1..=100 {
        let term = libm::exp(-2.0 * f64::from(k * k) * x * x);
        sum += if k % 2 == 1 { term } else { -term };
        if term < 1e-16 {
            break;
        }
    }
    (2.0 * sum).clamp(0.0, 1.0)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let test = ks_two_sample(&[1.0, 2.0, 3.0, 4.0], &[3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(test.statistic, 0.5);
        assert_eq!(ks_two_sample(&[1.0], &[f64::NAN]), None);
        // Quantiles of the Kolmogorov distribution.
        assert!((kolmogorov_tail(1.3581) - 0.05).abs() < 1e-4);
        assert!((kolmogorov_tail(1.6276) - 0.01).abs() < 1e-4);
    }

    #[test]
    fn a_shift_is_found_and_sameness_is_not() {
        let mut rng = Rng::seeded(2);
        let a: Vec<f64> = (0..2000).map(|_| rng.normal()).collect();
        let b: Vec<f64> = (0..2000).map(|_| rng.normal()).collect();
        let c: Vec<f64> = (0..2000).map(|_| rng.normal() + 0.2).collect();
        assert!(ks_two_sample(&a, &b).unwrap().p_value > 0.01);
        assert!(ks_two_sample(&a, &c).unwrap().p_value < 1e-6);
    }

    proptest! {
        #[test]
        fn equals_the_definition(a in prop::collection::vec(0i32..12, 1..40), b in prop::collection::vec(0i32..12, 1..40)) {
            let (a, b): (Vec<f64>, Vec<f64>) = (a.iter().map(|&v| v.into()).collect(), b.iter().map(|&v| v.into()).collect());
            let below = |s: &[f64], x: f64| s.iter().filter(|&&v| v <= x).count() as f64 / s.len() as f64;
            let naive = (0..12).map(|x| (below(&a, x.into()) - below(&b, x.into())).abs()).fold(0.0, f64::max);
            prop_assert!((ks_two_sample(&a, &b).unwrap().statistic - naive).abs() < 1e-12);
        }
    }
}
