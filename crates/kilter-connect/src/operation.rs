//! The words by which systems say what a change did to a row.

use kilter_core::{Operation, Value};

use crate::error::FieldProblem;

/// Letters of Debezium and of replication services, and whole words; in any case.
const WORDS: [(&str, Operation); 11] = [
    ("c", Operation::Upsert),
    ("r", Operation::Upsert),
    ("u", Operation::Upsert),
    ("i", Operation::Upsert),
    ("insert", Operation::Upsert),
    ("create", Operation::Upsert),
    ("read", Operation::Upsert),
    ("update", Operation::Upsert),
    ("upsert", Operation::Upsert),
    ("d", Operation::Delete),
    ("delete", Operation::Delete),
];

/// What the value of `field` says; nothing said is an upsert.
pub(crate) fn parse(value: &Value, field: &str, problems: &mut Vec<FieldProblem>) -> Operation {
    let text = match value {
        Value::Null => return Operation::Upsert,
        Value::Text(text) => text.trim(),
        other => {
            let problem = FieldProblem::new("unknown_operation", field, format!("{field}: an operation is a text, got {other}"));
            problems.push(problem.hint(hint()));
            return Operation::Upsert;
        }
    };
    if let Some((_, operation)) = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        return *operation;
    }
    problems.push(match text.to_ascii_lowercase().as_str() {
        "t" | "truncate" => {
            FieldProblem::new("truncate", field, format!("{field}: the table was emptied, which takes away rows no one names"))
                .hint("send a delete for each row, or begin with an empty data folder")
        }
        _ => {
            let shown: String = text.chars().take(40).collect();
            FieldProblem::new("unknown_operation", field, format!("{field}: `{shown}` is no operation")).hint(hint())
        }
    });
    Operation::Upsert
}

fn hint() -> String {
    format!("one of: {}; null is an upsert", kilter_core::list(WORDS.map(|(word, _)| word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_in_any_case_and_others_are_refused() {
        let read = |value: Value| {
            let mut problems = Vec::new();
            let operation = parse(&value, "op", &mut problems);
            problems.pop().map_or(Ok(operation), |p| Err(format!("{}: {p}", p.code)))
        };
        for word in ["c", "r", "u", "i", "insert", "create", "read", "update", "upsert", "INSERT", "U", " c "] {
            assert_eq!(read(Value::text(word)), Ok(Operation::Upsert), "{word}");
        }
        for word in ["d", "delete", "D", "DELETE"] {
            assert_eq!(read(Value::text(word)), Ok(Operation::Delete), "{word}");
        }
        assert_eq!(read(Value::Null), Ok(Operation::Upsert));
        let words = "one of: c, r, u, i, insert, create, read, update, upsert, d, delete; null is an upsert";
        assert_eq!(read(Value::text("x")), Err(format!("unknown_operation: op: `x` is no operation ({words})")));
        assert_eq!(read(Value::text("")), Err(format!("unknown_operation: op: `` is no operation ({words})")));
        assert_eq!(read(Value::Int(1)), Err(format!("unknown_operation: op: an operation is a text, got 1 ({words})")));
        for word in ["t", "TRUNCATE"] {
            assert!(read(Value::text(word)).unwrap_err().starts_with("truncate: op: the table was emptied"), "{word}");
        }
    }
}
