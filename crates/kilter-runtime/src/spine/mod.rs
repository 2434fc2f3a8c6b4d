//! What a training set is asked for, in names ([`Request`], [`Asked`]) and in positions ([`Resolved`]).

mod request;
mod resolve;

pub use request::*;
#[cfg(feature = "operation")]
pub(crate) use resolve::{FilePlan, LogPlan, SpinePlan, connect, resolve};
pub use resolve::{Resolved, complaint, resolve_table};
