//! Population and characteristic stability over bins that someone else has made: score bands, the bins of a scorecard.

use serde::Serialize;

use crate::chi_square_tail;

/// Result of [`stability`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stability {
    /// Population stability index in nats, with half a row added to each bin; called CSI when the bins are those of one characteristic.
    pub psi: f64,
    /// Chi-square statistic of the two rows of counts (homogeneity).
    pub chi_square: f64,
    /// Bins that either side has filled, less one.
    pub degrees: usize,
    /// Chance of a chi-square as large when nothing has moved. The rules of thumb for PSI (0.1, 0.25) know nothing of the sizes of samples; this does.
    pub p_value: f64,
}

/// Compares how two samples fall into the same bins. All is NaN while either side is empty.
///
/// # Panics
/// When the two have another number of bins.
pub fn stability(expected: &[u64], actual: &[u64]) -> Stability {
    assert_eq!(expected.len(), actual.len(), "the same bins on both sides");
    let (n, m) = (expected.iter().sum::<u64>() as f64, actual.iter().sum::<u64>() as f64);
    let pairs = || expected.iter().zip(actual).map(|(&e, &a)| (e as f64, a as f64));
    let degrees = pairs().filter(|(e, a)| e + a > 0.0).count().saturating_sub(1);
    if n == 0.0 || m == 0.0 {
        return Stability { psi: f64::NAN, chi_square: f64::NAN, degrees, p_value: f64::NAN };
    }
    let bins = expected.len() as f64;
    let share = |count: f64, total: f64| (count + 0.5) / (total + 0.5 * bins);
    let psi = pairs().map(|(e, a)| (share(a, m) - share(e, n)) * libm::log(share(a, m) / share(e, n))).sum();
    let distance = |(e, a): (f64, f64)| {
        let (at_n, at_m) = ((e + a) * n / (n + m), (e + a) * m / (n + m));
        (e - at_n) * (e - at_n) / at_n + (a - at_m) * (a - at_m) / at_m
    };
    let chi_square: f64 = pairs().filter(|(e, a)| e + a > 0.0).map(distance).sum();
    let p_value = if degrees == 0 { 1.0 } else { chi_square_tail(chi_square, degrees as f64) };
    Stability { psi, chi_square, degrees, p_value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // scipy.stats.chi2_contingency([[120, 300, 580], [150, 260, 590]], correction=False).
        let found = stability(&[120, 300, 580], &[150, 260, 590]);
        assert!((found.chi_square - 6.275_946_275_946_276).abs() < 1e-9, "{found:?}");
        assert!((found.p_value - 0.043_370_615_128_086_2).abs() < 1e-12, "{found:?}");
        assert_eq!(found.degrees, 2);
        let shares = |count: f64| (count + 0.5) / 1001.5;
        let term = |e: f64, a: f64| (shares(a) - shares(e)) * f64::ln(shares(a) / shares(e));
        assert!((found.psi - (term(120.0, 150.0) + term(300.0, 260.0) + term(580.0, 590.0))).abs() < 1e-15);
    }

    #[test]
    fn the_same_is_stable_and_nothing_is_not_known() {
        assert_eq!(stability(&[5, 0, 7], &[5, 0, 7]), Stability { psi: 0.0, chi_square: 0.0, degrees: 1, p_value: 1.0 });
        assert_eq!(stability(&[9], &[4]).p_value, 1.0);
        assert!(stability(&[0, 0], &[1, 2]).psi.is_nan() && stability(&[], &[]).p_value.is_nan());
    }
}
