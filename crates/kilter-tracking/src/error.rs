//! What is refused and why, in the codes that MLflow's clients know.

/// The kind of a refusal. A client acts by it: some it tries again, some it turns into exceptions of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The request is wrong.
    InvalidParameterValue,
    /// What it names is not there.
    ResourceDoesNotExist,
    /// What it makes is there already.
    ResourceAlreadyExists,
    /// What it names is not in a state for this.
    InvalidState,
    /// Nobody is known who sent it.
    Unauthenticated,
    /// Whoever sent it may not do this.
    PermissionDenied,
    /// Nobody answers under this path.
    EndpointNotFound,
    /// The request is understood and cannot be served here.
    NotImplemented,
    /// Worth another try in a moment.
    TemporarilyUnavailable,
    /// Something of ours failed.
    InternalError,
}

impl ErrorCode {
    /// As it stands in an answer.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidParameterValue => "INVALID_PARAMETER_VALUE",
            ErrorCode::ResourceDoesNotExist => "RESOURCE_DOES_NOT_EXIST",
            ErrorCode::ResourceAlreadyExists => "RESOURCE_ALREADY_EXISTS",
            ErrorCode::InvalidState => "INVALID_STATE",
            ErrorCode::Unauthenticated => "UNAUTHENTICATED",
            ErrorCode::PermissionDenied => "PERMISSION_DENIED",
            ErrorCode::EndpointNotFound => "ENDPOINT_NOT_FOUND",
            ErrorCode::NotImplemented => "NOT_IMPLEMENTED",
            ErrorCode::TemporarilyUnavailable => "TEMPORARILY_UNAVAILABLE",
            ErrorCode::InternalError => "INTERNAL_ERROR",
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::InvalidParameterValue | ErrorCode::ResourceAlreadyExists => 400,
            ErrorCode::Unauthenticated => 401,
            ErrorCode::PermissionDenied => 403,
            ErrorCode::ResourceDoesNotExist | ErrorCode::EndpointNotFound => 404,
            ErrorCode::InvalidState | ErrorCode::InternalError => 500,
            ErrorCode::NotImplemented => 501,
            ErrorCode::TemporarilyUnavailable => 503,
        }
    }
}

/// A refusal; nothing of the request was stored, but for what a call says that is written in steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its kind.
    pub code: ErrorCode,
    /// Its words. Programs read some of them, so they are MLflow's where MLflow has any.
    pub message: String,
}

/// What everything here answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal of any kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidParameterValue, message)
    }

    /// What the request names is not there.
    pub fn missing(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::ResourceDoesNotExist, message)
    }

    /// A file or the database failed: the program's log gets the detail, the client does not.
    pub(crate) fn internal(detail: &dyn std::fmt::Display) -> Error {
        tracing::error!(%detail, "the tracking store failed");
        Error::new(ErrorCode::InternalError, "the request failed inside kilter; its log says why")
    }
}
