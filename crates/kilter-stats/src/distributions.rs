//! Tails and quantiles of the normal and the chi-square distribution.

/// P(X > z) of a standard normal.
pub fn normal_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z / core::f64::consts::SQRT_2)
}

/// The z below which a standard normal lies with this probability; infinite at 0 and 1, NaN outside.
pub fn normal_quantile(probability: f64) -> f64 {
    if !(0.0..=1.0).contains(&probability) {
        return f64::NAN;
    }
    if probability == 0.0 || probability == 1.0 {
        return if probability == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // Solved in the lower half, where the tail is small and exact.
    let tail = probability.min(1.0 - probability);
    let (mut low, mut high) = (0.0, 40.0);
    // 60 halvings of 40 leave less than the last digit.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if normal_tail(middle) > tail { low = middle } else { high = middle }
    }
    let z = 0.5 * (low + high);
    if probability < 0.5 { -z } else { z }
}

/// P(X > x) of a chi-square with this many degrees of freedom: 1 at or below 0; NaN without degrees of freedom or for NaN.
pub fn chi_square_tail(x: f64, degrees: f64) -> f64 {
    if x.is_nan() || degrees.is_nan() || degrees <= 0.0 {
        return f64::NAN;
    }
    if x <= 0.0 || x == f64::INFINITY {
        return if x <= 0.0 { 1.0 } else { 0.0 };
    }
    upper_gamma(0.5 * degrees, 0.5 * x)
}

/// Regularised upper incomplete gamma function Q(a, x): a series where x is small, a continued fraction (Lentz) where it is not.
fn upper_gamma(a: f64, x: f64) -> f64 {
    let scale = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if scale == 0.0 {
        return if x > a { 0.0 } else { 1.0 };
    }
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..100_000 {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        return (1.0 - scale * sum).clamp(0.0, 1.0);
    }
    let tiny = 1e-300;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut fraction = d;
    for i in 1..100_000 {
        let i = f64::from(i);
        let numerator = -i * (i - a);
        b += 2.0;
        d = numerator * d + b;
        d = 1.0 / if d.abs() < tiny { tiny } else { d };
        c = b + numerator / c;
        c = if c.abs() < tiny { tiny } else { c };
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (scale * fraction).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_tables() {
        // From scipy.stats: norm.ppf, norm.sf, chi2.sf.
        for (probability, z) in
            [(0.975, 1.959_963_984_540_054), (0.5, 0.0), (0.05, -1.644_853_626_951_472_2), (1e-12, -7.034_483_825_301_131)]
        {
            assert!((normal_quantile(probability) - z).abs() < 1e-11 * (1.0 + z.abs()), "{probability}: {}", normal_quantile(probability));
        }
        assert!((normal_tail(1.96) - 0.024_997_895_148_220_43).abs() < 1e-15);
        for (x, degrees, tail) in [
            (3.841_458_820_694_124, 1.0, 0.05),
            (18.307_038_053_275_146, 10.0, 0.05),
            (0.5, 3.0, 0.918_891_411_654_675_8),
            (200.0, 100.0, 1.178_450_072_097_978_1e-8),
        ] {
            let found = chi_square_tail(x, degrees);
            assert!((found / tail - 1.0).abs() < 1e-6, "{x} {degrees}: {found} instead of {tail}");
        }
        // Two degrees of freedom are an exponential.
        for x in [0.1f64, 1.0, 7.0, 60.0, 1400.0] {
            assert!((chi_square_tail(x, 2.0) - libm::exp(-x / 2.0)).abs() <= 1e-13 * libm::exp(-x / 2.0), "{x}");
        }
    }

    #[test]
    fn ends_are_defined() {
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(normal_quantile(1.5).is_nan() && normal_quantile(f64::NAN).is_nan());
        assert_eq!((chi_square_tail(0.0, 3.0), chi_square_tail(-1.0, 3.0), chi_square_tail(f64::INFINITY, 3.0)), (1.0, 1.0, 0.0));
        assert!(chi_square_tail(1.0, 0.0).is_nan() && chi_square_tail(f64::NAN, 1.0).is_nan());
    }
}
