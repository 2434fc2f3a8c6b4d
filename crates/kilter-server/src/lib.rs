//! Kilter over HTTP: events in, decisions out, and everything a person or a dashboard asks about a running project.
//!
//! [`serve`] runs a [`Service`] on an address until told to stop; [`bind`] does the same in two steps, for those who must know
//! the port first. [`router`] is the same without a socket. Who may do what is [`access`].

pub mod access;
mod app;
mod error;
mod front;
mod input;
mod mlflow;
mod observe;
mod openapi;
mod routes;
mod serve;
pub mod sql;
mod wire;

use std::sync::Arc;

use kilter_runtime::Service;

pub use error::{ErrorBody, ErrorDetail, FieldError};
pub use mlflow::{Network, WebhookOptions};
pub use routes::decision_json;
pub use serve::{Bound, Listening, ServeOptions, bind, listen, serve};

/// All routes on a service but those of MLflow, with the limits of [`ServeOptions::default`]. Requests meant for other hosts are not turned away here, and
/// none wants a key: that is [`bind`]'s matter.
pub fn router(service: Arc<Service>) -> axum::Router {
    let options = ServeOptions { allow_remote: true, ..ServeOptions::default() };
    observe::router(&app::Host::new(service, &options, std::iter::empty(), None, app::Drain::default()), axum::Router::new())
}
