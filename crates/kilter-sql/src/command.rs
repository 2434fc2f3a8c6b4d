//! A text of SQL cut into statements, and what each asks for: a question, or something about the session, which clients send in every dialect of politeness.

use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::error::{Result, SYNTAX, SqlError, UNSUPPORTED};

/// What one statement asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// A question: SELECT, VALUES, TABLE, WITH, EXPLAIN.
    Ask(Box<Statement>),
    Begin(&'static str),
    /// The end of a transaction, with the tag that tells of it.
    End(&'static str),
    /// Nothing happens, and this tag tells that it did.
    Nothing(&'static str),
    Set {
        name: String,
        value: String,
    },
    Reset(String),
    Show(String),
    /// Everything about the session is forgotten.
    Discard(&'static str),
    Declare {
        cursor: String,
        statement: Box<Statement>,
        hold: bool,
    },
    Fetch {
        cursor: String,
        rows: Rows,
        moves: bool,
    },
    /// None: all cursors.
    Close(Option<String>),
    Copy {
        statement: Box<Statement>,
        format: CopyFormat,
    },
    /// A prepared statement is forgotten; none: all.
    Deallocate(Option<String>),
}

/// How many rows a FETCH asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    Next(usize),
    All,
}

/// How COPY writes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv { header: bool },
    Binary,
}

/// Nested deeper than this, a statement is refused.
const DEPTH: usize = 100;

/// The statements of a text, in order.
pub fn parse(sql: &str) -> Result<Vec<Command>> {
    statements(sql).map_err(|e| e.placed_in(sql))
}

fn statements(sql: &str) -> Result<Vec<Command>> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize_with_location()
        .map_err(|e| SqlError::new(SYNTAX, format!("syntax error: {e}")))?;
    let mut commands = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        if tokens.iter().any(|token| !matches!(token.token, Token::Whitespace(_))) {
            commands.push(one(tokens)?);
        }
    }
    Ok(commands)
}

fn one(tokens: &[TokenWithSpan]) -> Result<Command> {
    let words = Words::of(tokens);
    let verb = words.upper(0);
    let command = match verb.as_str() {
        "BEGIN" => Command::Begin("BEGIN"),
        "START" if words.is(1, "TRANSACTION") => Command::Begin("START TRANSACTION"),
        "COMMIT" | "END" => Command::End("COMMIT"),
        "ROLLBACK" | "ABORT" if (1..4).any(|i| words.is(i, "TO")) => Command::Nothing("ROLLBACK"),
        "ROLLBACK" | "ABORT" => Command::End("ROLLBACK"),
        "SAVEPOINT" => Command::Nothing("SAVEPOINT"),
        "RELEASE" => Command::Nothing("RELEASE"),
        "LISTEN" => Command::Nothing("LISTEN"),
        "UNLISTEN" => Command::Nothing("UNLISTEN"),
        "DISCARD" => Command::Discard(if words.is(1, "ALL") { "DISCARD ALL" } else { "DISCARD" }),
        "RESET" => Command::Reset(words.name(1)),
        "SHOW" => Command::Show(words.name(1)),
        "SET" => set(&words)?,
        "DECLARE" => declare(tokens, &words)?,
        "FETCH" => fetch(&words, false)?,
        "MOVE" => fetch(&words, true)?,
        "CLOSE" => Command::Close((!words.is(1, "ALL")).then(|| words.identifier(1))),
        "DEALLOCATE" => {
            let name = if words.is(1, "PREPARE") { 2 } else { 1 };
            Command::Deallocate((!words.is(name, "ALL")).then(|| words.identifier(name)))
        }
        "COPY" => copy(tokens, &words)?,
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "EXPLAIN" | "(" => Command::Ask(Box::new(statement(tokens)?)),
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE" | "GRANT" | "REVOKE" | "VACUUM" | "ANALYZE" | "COMMENT" | "REINDEX"
        | "CLUSTER" | "REFRESH" | "LOCK" | "CALL" | "DO" | "IMPORT" | "REASSIGN" | "SECURITY" | "NOTIFY" => {
            return Err(SqlError::read_only(&verb));
        }
        "CREATE" | "DROP" | "ALTER" => {
            let what = [verb, words.upper(1)].join(" ");
            return Err(SqlError::read_only(what.trim()));
        }
        "PREPARE" | "EXECUTE" => {
            return Err(SqlError::new(UNSUPPORTED, format!("{verb} is not supported"))
                .hint("prepared statements work by the extended protocol, which every driver uses"));
        }
        _ => {
            // What the parser makes of it says where it stumbles.
            statement(tokens)?;
            return Err(SqlError::new(UNSUPPORTED, format!("{verb} is not supported")));
        }
    };
    Ok(command)
}

/// Reads a question.
fn statement(tokens: &[TokenWithSpan]) -> Result<Statement> {
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens.to_vec());
    let statement = parser.parse_statement()?;
    match parser.peek_token().token {
        Token::EOF => Ok(statement),
        token => Err(SqlError::new(SYNTAX, format!("syntax error at or near \"{token}\""))),
    }
}

fn set(words: &Words<'_>) -> Result<Command> {
    let first = if words.is(1, "SESSION") || words.is(1, "LOCAL") { 2 } else { 1 };
    if words.is(first, "TRANSACTION") || words.is(first, "CHARACTERISTICS") || words.is(first, "AUTHORIZATION") || words.is(first, "ROLE") {
        return Ok(Command::Nothing("SET"));
    }
    let (name, rest) = match () {
        () if words.is(first, "TIME") && words.is(first + 1, "ZONE") => ("timezone".to_owned(), first + 2),
        () if words.is(first, "NAMES") => ("client_encoding".to_owned(), first + 1),
        () => {
            let Some(end) = (first..words.0.len()).find(|i| words.is(*i, "TO") || words.0[*i] == &Token::Eq) else {
                return Err(SqlError::new(SYNTAX, "syntax error: SET wants a name, = and a value"));
            };
            (words.joined(first, end).to_lowercase(), end + 1)
        }
    };
    Ok(Command::Set { name, value: words.joined(rest, words.0.len()) })
}

fn declare(tokens: &[TokenWithSpan], words: &Words<'_>) -> Result<Command> {
    let is_for = |token: &TokenWithSpan| matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("for"));
    let Some(at) = tokens.iter().position(is_for) else {
        return Err(SqlError::new(SYNTAX, "syntax error: DECLARE wants a name, CURSOR FOR and a question"));
    };
    let head = Words::of(&tokens[..at]);
    let hold = (0..head.0.len()).any(|i| head.is(i, "WITH") && head.is(i + 1, "HOLD"));
    Ok(Command::Declare { cursor: words.identifier(1), statement: Box::new(statement(&tokens[at + 1..])?), hold })
}

fn fetch(words: &Words<'_>, moves: bool) -> Result<Command> {
    let end = words.0.len();
    let cursor = words.identifier(end - 1);
    let last = if end >= 2 && (words.is(end - 2, "FROM") || words.is(end - 2, "IN")) { end - 2 } else { end - 1 };
    let mut rows = Rows::Next(1);
    for i in 1..last {
        match words.upper(i).as_str() {
            "NEXT" | "FORWARD" => {}
            "ALL" => rows = Rows::All,
            number if number.parse::<usize>().is_ok() => rows = Rows::Next(number.parse().unwrap_or(1)),
            other => {
                let code = if other == "-" || other.chars().all(char::is_alphabetic) { UNSUPPORTED } else { SYNTAX };
                return Err(SqlError::new(code, format!("FETCH {other} is not supported: cursors only go forward")));
            }
        }
    }
    Ok(Command::Fetch { cursor, rows, moves })
}

fn copy(tokens: &[TokenWithSpan], words: &Words<'_>) -> Result<Command> {
    let Some(to) = (0..words.0.len()).rfind(|i| words.is(*i, "TO") && words.is(i + 1, "STDOUT")) else {
        return Err(SqlError::read_only("COPY FROM"));
    };
    let open = tokens.iter().position(|t| t.token == Token::LParen);
    let close = {
        let stdout = tokens.iter().rposition(|t| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case("stdout")));
        stdout.and_then(|end| tokens[..end].iter().rposition(|t| t.token == Token::RParen))
    };
    let statement = match (open, close, words.0.get(1)) {
        (Some(open), Some(close), Some(Token::LParen)) if open < close => statement(&tokens[open + 1..close])?,
        // COPY table TO STDOUT
        _ => {
            let text = format!("SELECT * FROM {}", words.joined(1, to));
            let tokens = Tokenizer::new(&PostgreSqlDialect {}, &text)
                .tokenize_with_location()
                .map_err(|e| SqlError::new(SYNTAX, format!("syntax error: {e}")))?;
            statement(&tokens)?
        }
    };
    let options: Vec<String> = (to + 2..words.0.len()).map(|i| words.upper(i)).collect();
    let has = |word: &str| options.iter().any(|option| option == word);
    let format = match () {
        () if has("BINARY") => CopyFormat::Binary,
        () if has("CSV") => CopyFormat::Csv { header: has("HEADER") },
        () => CopyFormat::Text,
    };
    Ok(Command::Copy { statement: Box::new(statement), format })
}

/// The tokens of a statement without white space.
struct Words<'a>(Vec<&'a Token>);

impl<'a> Words<'a> {
    fn of(tokens: &'a [TokenWithSpan]) -> Words<'a> {
        Words(tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect())
    }

    fn upper(&self, i: usize) -> String {
        self.0.get(i).map_or_else(String::new, |token| token.to_string().to_uppercase())
    }

    fn is(&self, i: usize, word: &str) -> bool {
        matches!(self.0.get(i), Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// A name, in small letters where it is not quoted.
    fn identifier(&self, i: usize) -> String {
        match self.0.get(i) {
            Some(Token::Word(word)) if word.quote_style.is_some() => word.value.clone(),
            Some(token) => token.to_string().to_lowercase(),
            None => String::new(),
        }
    }

    /// The rest of the statement as the name of a setting.
    fn name(&self, from: usize) -> String {
        match (self.upper(from).as_str(), self.upper(from + 1).as_str(), self.upper(from + 2).as_str()) {
            ("TRANSACTION", "ISOLATION", "LEVEL") => "transaction_isolation".into(),
            ("TIME", "ZONE", _) => "timezone".into(),
            _ => self.joined(from, self.0.len()).to_lowercase(),
        }
    }

    /// What stands from one place to another, without quotes around single words.
    fn joined(&self, from: usize, to: usize) -> String {
        let text = |token: &Token| match token {
            Token::Word(word) => word.value.clone(),
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            Token::Comma => ", ".into(),
            token => token.to_string(),
        };
        self.0[from.min(self.0.len())..to].iter().map(|token| text(token)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(sql: &str) -> Command {
        let mut commands = parse(sql).unwrap();
        assert_eq!(commands.len(), 1, "{sql}");
        commands.remove(0)
    }

    #[test]
    fn what_clients_say_to_a_session_is_understood() {
        assert!(matches!(only("BEGIN READ ONLY"), Command::Begin("BEGIN")));
        assert!(matches!(only("START TRANSACTION ISOLATION LEVEL REPEATABLE READ"), Command::Begin(_)));
        assert!(matches!(only("ROLLBACK TO SAVEPOINT _EXEC_SVP_1"), Command::Nothing("ROLLBACK")));
        assert!(matches!(only("end"), Command::End("COMMIT")));
        assert!(matches!(only("show transaction isolation level;"), Command::Show(name) if name == "transaction_isolation"));
        assert!(matches!(only("SET extra_float_digits = 3"), Command::Set { name, value } if name == "extra_float_digits" && value == "3"));
        assert!(matches!(only("SET DateStyle='ISO'"), Command::Set { name, value } if name == "datestyle" && value == "ISO"));
        assert!(matches!(only("set time zone 'UTC'"), Command::Set { name, value } if name == "timezone" && value == "UTC"));
        assert!(matches!(only("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"), Command::Nothing("SET")));
        let several = parse("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;").unwrap();
        assert_eq!(several.len(), 4);
    }

    #[test]
    fn cursors_are_understood() {
        let declared = only(r#"declare "SQL_CUR1" cursor with hold for select 'a for b'"#);
        assert!(matches!(declared, Command::Declare { cursor, hold: true, .. } if cursor == "SQL_CUR1"));
        let fetch = |sql: &str| match only(sql) {
            Command::Fetch { cursor, rows, .. } => (cursor, rows),
            other => panic!("{other:?}"),
        };
        assert_eq!(fetch(r#"fetch 100 in "SQL_CUR1""#), ("SQL_CUR1".into(), Rows::Next(100)));
        assert_eq!(fetch("FETCH FORWARD ALL FROM c"), ("c".into(), Rows::All));
        assert_eq!(fetch("FETCH c"), ("c".into(), Rows::Next(1)));
        assert_eq!(parse("FETCH BACKWARD 3 FROM c").unwrap_err().code, UNSUPPORTED);
    }

    #[test]
    fn what_would_write_is_refused_as_postgresql_does() {
        for sql in ["INSERT INTO decisions VALUES (1)", "create temp table t (a int)", "DROP TABLE decisions", "COPY decisions FROM STDIN"]
        {
            assert_eq!(parse(sql).unwrap_err().code, crate::error::READ_ONLY, "{sql}");
        }
    }

    #[test]
    fn copies_are_understood() {
        let format = |sql: &str| match only(sql) {
            Command::Copy { format, .. } => format,
            other => panic!("{other:?}"),
        };
        assert_eq!(format("COPY (select (1)) TO STDOUT (FORMAT binary)"), CopyFormat::Binary);
        assert_eq!(format("COPY decisions TO STDOUT WITH (FORMAT csv, HEADER)"), CopyFormat::Csv { header: true });
        assert_eq!(format("copy (select 1) to stdout"), CopyFormat::Text);
    }

    #[test]
    fn a_syntax_error_says_so() {
        assert_eq!(parse("SELEC 1").unwrap_err().code, SYNTAX);
        assert_eq!(parse("SELECT 1 1 1").unwrap_err().code, SYNTAX);
        assert_eq!(parse("SELECT 'a").unwrap_err().code, SYNTAX);
        assert!(parse(" ; -- nothing\n").unwrap().is_empty());
    }
}
