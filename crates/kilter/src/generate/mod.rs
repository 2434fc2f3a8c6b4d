//! Synthetic event streams for `kilter demo` and `kilter generate`: pure, seeded, the same on every machine.

pub mod card_fraud;
pub mod lender;
