//! Yeo and Johnson's power transform (2000): bends a skewed column towards a normal distribution, values below 0 too.

/// Values beyond this size are as good as infinite, and stay this large.
const LARGEST: f64 = 1e100;

/// Exponents that are looked among.
const RANGE: (f64, f64) = (-5.0, 5.0);

/// `((x + 1)^lambda - 1) / lambda` of values not below 0, the mirror image with `2 - lambda` of those below.
pub(super) fn transformed(value: f64, lambda: f64) -> f64 {
    if !value.is_finite() {
        return value;
    }
    bent(libm::log1p(value.abs()), value < 0.0, lambda)
}

/// The same of `ln(1 + size)` and a sign.
fn bent(log: f64, negative: bool, lambda: f64) -> f64 {
    let (sign, power) = if negative { (-1.0, 2.0 - lambda) } else { (1.0, lambda) };
    let size = if power == 0.0 { log } else { libm::expm1(power * log) / power };
    sign * size.min(LARGEST)
}

/// The exponent under which the weighted values are likeliest to be normal.
pub(super) fn exponent(values: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, bool, f64)> = values.iter().map(|&(value, weight)| (libm::log1p(value.abs()), value < 0.0, weight)).collect();
    let total: f64 = logs.iter().map(|(_, _, weight)| weight).sum();
    if total <= 0.0 || values.iter().all(|(value, _)| *value == values[0].0) {
        return 1.0;
    }
    let signed: f64 = logs.iter().map(|&(log, negative, weight)| if negative { -weight * log } else { weight * log }).sum();
    let likelihood = |lambda: f64| {
        let mean = logs.iter().map(|&(log, negative, weight)| weight * bent(log, negative, lambda)).sum::<f64>() / total;
        let square = |&(log, negative, weight): &(f64, bool, f64)| {
            let away = bent(log, negative, lambda) - mean;
            weight * away * away
        };
        let variance = logs.iter().map(square).sum::<f64>() / total;
        -0.5 * total * libm::log(variance) + (lambda - 1.0) * signed
    };
    best(likelihood)
}

/// The place of the greatest value, by golden section.
fn best(of: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = RANGE;
    let (mut a, mut b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut at_a, mut at_b) = (of(a), of(b));
    while high - low > 1e-8 {
        if at_a >= at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - GOLDEN * (high - low);
            at_a = of(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + GOLDEN * (high - low);
            at_b = of(b);
        }
    }
    0.5 * (low + high)
}
