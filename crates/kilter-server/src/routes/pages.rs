//! Pages for people: the API browser and the dashboard.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::{Answer, App, Host};
use crate::routes::ui;

/// The API browser, from assets inside the binary.
pub fn swagger() -> Router<Host> {
    let config = Config::new(["/openapi.json"]).validator_url("none").try_it_out_enabled(true).display_request_duration(true);
    SwaggerUi::new("/docs").config(config).into()
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1, with the project's own sources, views and decisions", body = serde_json::Value))
)]
pub async fn get_openapi(State(app): State<App>) -> Answer {
    Ok(page("application/json", Body::from(app.openapi())))
}

/// The dashboard
///
/// Open to all, as it holds no data: what it shows it asks of the other routes, with the reader's key.
#[utoipa::path(
    get, path = "/", tag = "operations",
    responses((status = 200, description = "the dashboard, or how to get it", body = String, content_type = "text/html"))
)]
pub async fn get_home(headers: HeaderMap) -> Answer {
    Ok(ui::home(&headers))
}

fn page(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
