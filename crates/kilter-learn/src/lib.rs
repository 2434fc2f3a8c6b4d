//! From a training set to a model that scores, explains itself and survives a file: learners, metrics, the `Model` trait and its format.
//!
//! Pure: no clock, no files, no environment, no randomness without a seed. The same training set and parameters give the same model bytes
//! on any number of threads. Rows are `f64` with NaN for missing; margins and contributions are on the scale of
//! the model's [`Link`]: log-odds (natural logarithm) for a classifier.

pub mod calibration;
mod classes;
mod curve;
mod error;
pub mod exchange;
pub mod explain;
mod format;
pub mod learners;
pub mod math;
mod matrix;
pub mod metrics;
mod model;
pub mod selection;
mod task;
pub mod text;

pub use calibration::{Calibrated, Calibration, calibrate};
pub use classes::{ClassLink, ClassModel, load_classes};
pub use error::LearnError;
pub use learners::Learner;
pub use learners::explainable::{self, Explainable, ExplainableModel};
pub use learners::forest::{self, Forest, ForestModel};
pub use learners::gbdt::category_of;
pub use learners::gbdt::{self, Gbdt, GbdtModel, Objective};
pub use learners::isolation::{self, Isolation, IsolationModel};
pub use learners::kmeans::{self, KMeans, KMeansModel};
pub use learners::linear::{self, Linear, LinearModel};
pub use learners::logistic::{self, Logistic, LogisticModel};
pub use learners::online::{self, Online, load_online};
pub use learners::pipeline::{self, PipelineModel};
pub use learners::scorecard::{self, Scorecard, ScorecardModel};
pub use matrix::{Matrix, TrainingSet};
pub use model::{Link, Model, Reasons, Score, load};
pub use task::Task;
