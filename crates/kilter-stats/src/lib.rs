//! Small, exact statistics shared by every floor above: moments, drift, tails of distributions, seeded randomness.
//!
//! Nothing here reads a clock, a file or the environment, and no result depends on the platform: logarithms and exponentials come from
//! `libm`, so the same inputs give the same bits on every machine.

mod distributions;
mod drift;
mod ks;
mod moments;
mod random;
mod stability;

pub use distributions::{chi_square_tail, normal_quantile, normal_tail};
pub use drift::{Counts, NoDrift, Reference, psi};
pub use ks::{KsTest, ks_two_sample};
pub use moments::Moments;
pub use random::Rng;
pub use stability::{Stability, stability};
