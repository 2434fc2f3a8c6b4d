//! Why a call came to nothing, as gRPC has it: the words of PostgreSQL's protocol, its code beside them.

use tonic::{Code, Status};

use crate::error::{self, SqlError};

/// Bytes of the words: some clients take 8 KiB of headers, in which what is not ASCII takes three bytes for each.
const TOLD: usize = 2000;

fn code(e: &SqlError) -> Code {
    match e.code {
        error::CANCELED if e.message.contains("timeout") => Code::DeadlineExceeded,
        error::CANCELED => Code::Cancelled,
        error::UNDEFINED_TABLE | error::UNDEFINED_COLUMN | error::UNDEFINED_FUNCTION | error::UNDEFINED_OBJECT | UNKNOWN_STATEMENT => {
            Code::NotFound
        }
        error::UNSUPPORTED => Code::Unimplemented,
        error::TOO_MUCH => Code::ResourceExhausted,
        error::INTERNAL => Code::Internal,
        code => match &code[..2] {
            "28" => Code::Unauthenticated,
            "53" => Code::ResourceExhausted,
            // What would write is wrong whatever else happens, as are words that make no sense.
            _ => Code::InvalidArgument,
        },
    }
}

/// A prepared statement that is not there.
pub const UNKNOWN_STATEMENT: &str = "26000";

impl From<SqlError> for Status {
    fn from(e: SqlError) -> Status {
        let words = e.to_string();
        let end = (0..=TOLD.min(words.len())).rev().find(|end| words.is_char_boundary(*end)).unwrap_or(0);
        let rest = if end < words.len() { "…" } else { "" };
        let mut status = Status::new(code(&e), format!("{}{rest}", &words[..end]));
        let told = status.metadata_mut();
        told.insert("sqlstate", tonic::metadata::MetadataValue::from_static(e.code));
        if let Some(position) = e.position {
            told.insert("position", position.into());
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_code_are_those_of_the_other_protocol() {
        let status = Status::from(
            SqlError { position: Some(8), ..SqlError::new(error::UNDEFINED_COLUMN, "column \"x\" does not exist") }
                .hint("did you mean `y`?"),
        );
        assert_eq!((status.code(), status.message()), (Code::NotFound, "column \"x\" does not exist\n  hint: did you mean `y`?"));
        assert_eq!(status.metadata().get("sqlstate").unwrap(), "42703");
        assert_eq!(status.metadata().get("position").unwrap(), "8");
        let long = Status::from(SqlError::new(error::SYNTAX, "ä".repeat(3000)));
        assert!(long.message().len() <= TOLD + 3 && long.code() == Code::InvalidArgument);
    }
}
