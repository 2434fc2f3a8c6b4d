//! Logistic arithmetic, by `libm` so that bits do not depend on the platform.

/// 1 / (1 + e^-margin), accurate at both ends.
pub fn sigmoid(margin: f64) -> f64 {
    if margin >= 0.0 {
        1.0 / (1.0 + libm::exp(-margin))
    } else {
        let e = libm::exp(margin);
        e / (1.0 + e)
    }
}

/// Log-odds of a probability.
pub fn logit(probability: f64) -> f64 {
    libm::log(probability) - libm::log1p(-probability)
}

/// Negative log-likelihood of a label under a margin, in nats; never infinite for finite margins.
pub fn margin_loss(margin: f64, label: f64) -> f64 {
    margin.max(0.0) - margin * label + libm::log1p(libm::exp(-margin.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(-800.0), 0.0);
        assert!((sigmoid(2.0) - 0.880_797_077_977_882_4).abs() < 1e-15);
        assert!((logit(sigmoid(-3.25)) + 3.25).abs() < 1e-14);
        assert!((margin_loss(2.0, 0.0) - 2.126_928_011_042_972_7).abs() < 1e-14);
        assert_eq!(margin_loss(900.0, 1.0), 0.0);
        assert_eq!(margin_loss(900.0, 0.0), 900.0);
    }
}
