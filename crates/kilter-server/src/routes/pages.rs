//! Pages for people: the API browser and a door sign.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::{Answer, App, Host};

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

/// The door sign
#[utoipa::path(
    get, path = "/", tag = "operations",
    responses((status = 200, description = "links", body = String, content_type = "text/html"))
)]
pub async fn get_home(State(app): State<App>) -> Answer {
    let html = include_str!("home.html").replace("{{project}}", &escape(&app.service.plan.project));
    let mut response = page("text/html; charset=utf-8", Body::from(html));
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn page(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
