//! A text of SQL cut into statements, and what each asks for: a question, or something about the session, which clients send in every dialect of politeness.

use datafusion::sql::sqlparser::ast::{Expr, SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::error::{Result, SYNTAX, SqlError, TOO_COMPLEX, UNSUPPORTED};
use crate::sealed::Sealed;
use crate::size;

/// What one statement asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// A question: SELECT, VALUES, TABLE, WITH, EXPLAIN.
    Ask(Sealed<Statement>),
    Begin(&'static str),
    /// The end of a transaction, with the tag that tells of it.
    End(&'static str),
    /// Nothing happens, and this tag tells that it did.
    Nothing(&'static str),
    /// Back to a savepoint: the transaction goes on.
    Back,
    Set {
        name: String,
        value: String,
    },
    Reset(String),
    Show(String),
    /// Everything about the session is forgotten.
    Discard,
    Declare {
        cursor: String,
        statement: Sealed<Statement>,
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
        statement: Sealed<Statement>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFormat {
    pub kind: CopyKind,
    pub header: bool,
    pub delimiter: char,
    pub null: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    Text,
    Csv,
    Binary,
}

/// Nested deeper than this, a statement is refused.
const DEPTH: usize = 100;
/// The parser reads what a function is given twice, as the name of an argument and as its value. Where one of these stands before a bracket in which something is
/// wrong, it reads all in it twice more, as what a function of that name is given. So it goes for each bracket around.
const REREAD: [&str; 18] = [
    "NOT",
    "CASE",
    "CAST",
    "TRY_CAST",
    "SAFE_CAST",
    "CONVERT",
    "TRY_CONVERT",
    "INTERVAL",
    "POSITION",
    "OVERLAY",
    "CEIL",
    "FLOOR",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "STRUCT",
];
/// How many words may be read so: 16 calls around each other in a statement of 300 words.
const READ: usize = 20_000_000;
/// Words that call nothing, though brackets follow.
const NO_CALLS: [&str; 44] = [
    "ALL",
    "AND",
    "ANY",
    "AS",
    "BETWEEN",
    "BY",
    "CROSS",
    "DISTINCT",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FILTER",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERSECT",
    "IS",
    "JOIN",
    "LATERAL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MATERIALIZED",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "RIGHT",
    "SELECT",
    "SETS",
    "SOME",
    "THEN",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
    "WITHIN",
];
/// Bytes of a text.
pub const BYTES: usize = 256 << 10;
/// Words of a text.
const WORDS: usize = 20_000;
/// Words that may stand in a row without a comma, together with those in brackets among them: a parser makes a tree as deep as a chain of operators is long,
/// and threads have stacks of some megabytes.
const CHAIN: usize = 2000;
/// Parameters of a statement, as the protocol counts them.
const PARAMETERS: usize = 65_535;

/// The statements of a text, in order.
///
/// # Errors
/// When one makes no sense, or the text is larger than any that people and programs write.
pub fn parse(sql: &str) -> Result<Vec<Command>> {
    statements(sql, false).map_err(|e| e.placed_in(sql))
}

/// The tokens of a text that is a part of a statement, within the bounds of one.
pub fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let tokens = tokenized(sql)?;
    bounded(&Words::of(&tokens))?;
    Ok(tokens)
}

/// Reads tokens; what is nested too deeply it refuses.
pub fn parser(tokens: &[TokenWithSpan]) -> Parser<'static> {
    Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens.to_vec())
}

/// As [`parse`], for clients that leave `?` as the mark of a parameter: the first is `$1`, and so on.
///
/// # Errors
/// As there; where a text has marks of both kinds.
pub fn parse_marked(sql: &str) -> Result<Vec<Command>> {
    statements(sql, true).map_err(|e| e.placed_in(sql))
}

/// A question whose condition this is.
pub fn asking_where(condition: &Expr) -> Result<Statement> {
    let mut statement = parser(&tokenized("SELECT 1 WHERE true")?).parse_statement()?;
    if let Statement::Query(query) = &mut statement
        && let SetExpr::Select(select) = query.body.as_mut()
    {
        select.selection = Some(condition.clone());
    }
    Ok(statement)
}

fn tokenized(sql: &str) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().map_err(|e| SqlError::new(SYNTAX, format!("syntax error: {e}")))
}

fn statements(sql: &str, marked: bool) -> Result<Vec<Command>> {
    if sql.len() > BYTES {
        let message = format!("a statement has at most {BYTES} bytes, and this has {}", sql.len());
        return Err(SqlError::new(TOO_COMPLEX, message).hint("give values as an array: `column = ANY($1)`"));
    }
    let mut tokens = tokenized(sql)?;
    if marked {
        number(&mut tokens)?;
    }
    let mut commands = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let words = Words::of(tokens);
        if !words.0.is_empty() {
            bounded(&words)?;
            commands.push(one(tokens)?);
        }
    }
    Ok(commands)
}

/// Gives marks of parameters their numbers.
fn number(tokens: &mut [TokenWithSpan]) -> Result<()> {
    let is_numbered = tokens.iter().any(|token| matches!(token.token, Token::Placeholder(_)));
    let mut count = 0;
    for token in tokens.iter_mut().filter(|token| token.token == Token::Question) {
        if is_numbered {
            return Err(SqlError::new(SYNTAX, "syntax error: parameters are either ? or $1, $2 and so on"));
        }
        count += 1;
        token.token = Token::Placeholder(format!("${count}"));
    }
    Ok(())
}

/// Refuses what would take the parser, or whatever walks over what it makes, too far.
fn bounded(words: &Words<'_>) -> Result<()> {
    if words.0.len() > WORDS {
        let message = format!("a statement has at most {WORDS} words, and this has {}", words.0.len());
        return Err(SqlError::new(TOO_COMPLEX, message).hint("give values as an array: `column = ANY($1)`"));
    }
    if words.chain() > CHAIN {
        let message = format!("an expression has at most {CHAIN} words");
        return Err(SqlError::new(TOO_COMPLEX, message).hint("IN (…) or = ANY (…) says what a long chain of OR says"));
    }
    if words.0.len() > READ >> words.doublings().min(usize::BITS - 1) {
        let message =
            "calls of functions, NOT, CASE, CAST and their like stand in too many of each other's brackets for a statement so long";
        return Err(SqlError::new(TOO_COMPLEX, message).hint("a question after FROM, or WITH, gives an expression a name"));
    }
    let is_place = |name: &str| name.strip_prefix('$').and_then(|n| n.parse().ok()).is_some_and(|n| (1..=PARAMETERS).contains(&n));
    for word in &words.0 {
        if let Token::Placeholder(name) = word
            && name.strip_prefix('$').is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
            && !is_place(name)
        {
            return Err(SqlError::new("54023", format!("there is no parameter {name}")).hint(format!("they are $1 to ${PARAMETERS}")));
        }
    }
    Ok(())
}

fn one(tokens: &[TokenWithSpan]) -> Result<Command> {
    let words = Words::of(tokens);
    let verb = words.upper(0);
    let command = match verb.as_str() {
        "BEGIN" => Command::Begin("BEGIN"),
        "START" if words.is(1, "TRANSACTION") => Command::Begin("START TRANSACTION"),
        "COMMIT" | "END" => Command::End("COMMIT"),
        "ROLLBACK" | "ABORT" if (1..4).any(|i| words.is(i, "TO")) => Command::Back,
        "ROLLBACK" | "ABORT" => Command::End("ROLLBACK"),
        "SAVEPOINT" => Command::Nothing("SAVEPOINT"),
        "RELEASE" => Command::Nothing("RELEASE"),
        "LISTEN" => Command::Nothing("LISTEN"),
        "UNLISTEN" => Command::Nothing("UNLISTEN"),
        "DISCARD" => match words.upper(1).as_str() {
            "ALL" => Command::Discard,
            // There is nothing of the kind.
            "PLANS" => Command::Nothing("DISCARD PLANS"),
            "SEQUENCES" => Command::Nothing("DISCARD SEQUENCES"),
            "TEMP" | "TEMPORARY" => Command::Nothing("DISCARD TEMP"),
            other => return Err(SqlError::new(SYNTAX, format!("syntax error at or near \"{other}\""))),
        },
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
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "EXPLAIN" | "(" => Command::Ask(Sealed::new(statement(tokens)?)),
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
    let mut parser = parser(tokens);
    let statement = parser.parse_statement()?;
    match parser.peek_token().token {
        Token::EOF => size::bounded(&statement).map(|()| statement),
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
    Ok(Command::Declare { cursor: words.identifier(1), statement: Sealed::new(statement(&tokens[at + 1..])?), hold })
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
    let tokens: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let Some(to) = (0..words.0.len()).rfind(|i| words.is(*i, "TO") && words.is(i + 1, "STDOUT")) else {
        return Err(SqlError::read_only("COPY FROM"));
    };
    let own = |range: std::ops::Range<usize>| tokens[range].iter().map(|token| (*token).clone());
    let asked: Vec<TokenWithSpan> = match words.0.get(1) {
        Some(Token::LParen) if words.0.get(to - 1) == Some(&&Token::RParen) => own(2..to - 1).collect(),
        // A table, perhaps with some of its columns.
        _ => {
            let columns = words.0[..to].iter().position(|token| **token == Token::LParen);
            let keyword = |word: &str| TokenWithSpan::wrap(Token::make_keyword(word));
            let mut asked = vec![keyword("SELECT")];
            match columns {
                Some(open) if words.0[to - 1] == &Token::RParen => asked.extend(own(open + 1..to - 1)),
                Some(_) => return Err(SqlError::new(SYNTAX, "syntax error: COPY wants a table or a question in brackets")),
                None => asked.push(TokenWithSpan::wrap(Token::Mul)),
            }
            asked.push(keyword("FROM"));
            asked.extend(own(1..columns.unwrap_or(to)));
            asked
        }
    };
    Ok(Command::Copy { statement: Sealed::new(statement(&asked)?), format: copy_format(words, to + 2)? })
}

/// The options of COPY from a place on, in both ways of writing them: `WITH (FORMAT csv, HEADER)` and `WITH CSV HEADER`.
fn copy_format(words: &Words<'_>, from: usize) -> Result<CopyFormat> {
    let from = from + usize::from(words.is(from, "WITH"));
    let (is_list, mut end) = (words.0.get(from) == Some(&&Token::LParen), words.0.len());
    if is_list {
        end -= 1;
        if words.0.get(end) != Some(&&Token::RParen) {
            return Err(SqlError::new(SYNTAX, "syntax error: the options of COPY do not end"));
        }
    }
    let (mut kind, mut header, mut delimiter, mut null) = (CopyKind::Text, false, None, None);
    let kind_of = |word: &str| match word {
        "TEXT" => Ok(CopyKind::Text),
        "CSV" => Ok(CopyKind::Csv),
        "BINARY" => Ok(CopyKind::Binary),
        other => Err(SqlError::new("22023", format!("COPY format \"{}\" not recognized", other.to_lowercase()))),
    };
    let mut i = from + usize::from(is_list);
    while i < end {
        let option = words.upper(i);
        i += 1;
        // What belongs to it: up to the next comma, or the one value of the older way.
        let mut next = i;
        match is_list {
            true => next = (i..end).find(|i| words.0[*i] == &Token::Comma).unwrap_or(end),
            false if ["DELIMITER", "NULL", "QUOTE", "ESCAPE", "ENCODING"].contains(&option.as_str()) => {
                i += usize::from(words.is(i, "AS"));
                next = i + 1;
            }
            false => {}
        }
        let value = words.joined(i.min(end), next.min(end));
        i = next + usize::from(is_list);
        let lacks = || {
            let message = format!("COPY does not know the option {option} {value}");
            SqlError::new(UNSUPPORTED, message.trim_end()).hint("FORMAT, HEADER, DELIMITER and NULL are known")
        };
        match option.as_str() {
            "FORMAT" if is_list => kind = kind_of(&value.to_uppercase())?,
            "CSV" | "BINARY" if !is_list => kind = kind_of(&option)?,
            "HEADER" => match value.to_lowercase().as_str() {
                "" | "true" | "on" | "1" => header = true,
                "false" | "off" | "0" => header = false,
                _ => return Err(lacks()),
            },
            "DELIMITER" => {
                let mut letters = value.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) if letter.is_ascii() && !"\r\n\\\"".contains(letter) => delimiter = Some(letter),
                    _ => return Err(SqlError::new("22023", "COPY delimiter must be a single one-byte character")),
                }
            }
            "NULL" if !value.contains(['\r', '\n']) => null = Some(value),
            "QUOTE" | "ESCAPE" if value == "\"" => {}
            "ENCODING" if ["utf8", "unicode"].contains(&value.to_lowercase().replace('-', "").as_str()) => {}
            _ => return Err(lacks()),
        }
    }
    if kind == CopyKind::Binary && (header || delimiter.is_some() || null.is_some()) {
        return Err(SqlError::new(SYNTAX, "COPY in binary has neither HEADER nor DELIMITER nor NULL"));
    }
    let is_text = kind == CopyKind::Text;
    let delimiter = delimiter.unwrap_or(if is_text { '\t' } else { ',' });
    let null = null.unwrap_or_else(|| if is_text { "\\N".into() } else { String::new() });
    Ok(CopyFormat { kind, header, delimiter, null })
}

/// The tokens of a statement without white space.
struct Words<'a>(Vec<&'a Token>);

impl<'a> Words<'a> {
    fn of(tokens: &'a [TokenWithSpan]) -> Words<'a> {
        Words(tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect())
    }

    /// How deep a tree of them can become at most.
    fn chain(&self) -> usize {
        #[derive(Default)]
        struct Level {
            words: usize,
            /// The most that brackets among them have.
            inner: usize,
            /// The most of what stood before the last comma.
            before: usize,
        }
        impl Level {
            fn most(&self) -> usize {
                self.before.max(self.words + self.inner)
            }
        }
        let mut levels = vec![Level::default()];
        for word in &self.0 {
            match word {
                Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
                Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                    let inner = levels.pop().map_or(0, |level| level.most());
                    if let Some(level) = levels.last_mut() {
                        level.words += 1;
                        level.inner = level.inner.max(inner);
                    }
                }
                Token::Comma => {
                    if let Some(level) = levels.last_mut() {
                        *level = Level { before: level.most(), ..Level::default() };
                    }
                }
                _ => {
                    if let Some(level) = levels.last_mut() {
                        level.words += 1;
                    }
                }
            }
        }
        levels.iter().map(Level::most).sum()
    }

    /// How often the parser's work may double at the place where it does most.
    fn doublings(&self) -> u32 {
        let (mut open, mut now, mut most) = (Vec::new(), 0, 0);
        for (i, word) in self.0.iter().enumerate() {
            match word {
                Token::LParen | Token::LBracket | Token::LBrace => {
                    let before = |words: &[&str]| words.iter().any(|word| self.is(i - 1, word));
                    let doubled = match word {
                        Token::LParen if i > 0 && matches!(self.0[i - 1], Token::Word(_)) && !before(&NO_CALLS) => {
                            1 + u32::from(before(&REREAD))
                        }
                        _ => 0,
                    };
                    open.push(doubled);
                    now += doubled;
                    most = most.max(now);
                }
                Token::RParen | Token::RBracket | Token::RBrace => now -= open.pop().unwrap_or(0),
                _ => {}
            }
        }
        most
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
        assert!(matches!(only("ROLLBACK TO SAVEPOINT _EXEC_SVP_1"), Command::Back));
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

    fn copy_of(sql: &str) -> (String, CopyFormat) {
        match only(sql) {
            Command::Copy { statement, format } => (statement.to_string(), format),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn copies_are_understood() {
        let format = |sql: &str| copy_of(sql).1;
        assert_eq!(format("COPY (select (1)) TO STDOUT (FORMAT binary)").kind, CopyKind::Binary);
        let csv = CopyFormat { kind: CopyKind::Csv, header: true, delimiter: ',', null: String::new() };
        assert_eq!(format("COPY decisions TO STDOUT WITH (FORMAT csv, HEADER)"), csv);
        assert_eq!(format("COPY decisions TO STDOUT WITH CSV HEADER"), csv);
        assert!(!format("COPY decisions TO STDOUT (FORMAT csv, HEADER false)").header);
        assert_eq!(format("copy (select 1) to stdout").kind, CopyKind::Text);
        let other = format("COPY decisions TO STDOUT (FORMAT csv, DELIMITER ';', NULL 'none', ENCODING 'UTF8')");
        assert_eq!((other.delimiter, other.null.as_str()), (';', "none"));
        assert_eq!(format("copy decisions to stdout with delimiter as '|' null 'n'").delimiter, '|');
        for bad in ["(FORMAT csv, FORCE_QUOTE *)", "(FORMAT csv, QUOTE '|')", "WITH CSV FORCE QUOTE a"] {
            assert_eq!(parse(&format!("COPY decisions TO STDOUT {bad}")).unwrap_err().code, UNSUPPORTED, "{bad}");
        }
    }

    #[test]
    fn a_copy_of_a_table_names_what_its_words_name() {
        assert_eq!(copy_of("COPY events.payments (amount, \"Card\") TO STDOUT").0, "SELECT amount, \"Card\" FROM events.payments");
        assert_eq!(copy_of("COPY \"Amount\" TO STDOUT").0, "SELECT * FROM \"Amount\"");
        assert_eq!(copy_of("COPY \"a; DROP TABLE b\" TO STDOUT").0, "SELECT * FROM \"a; DROP TABLE b\"");
    }

    #[test]
    fn what_would_take_the_stack_or_the_memory_is_refused_before_it_is_parsed() {
        let code = |sql: String| parse(&sql).unwrap_err().code;
        assert_eq!(code(format!("SELECT 1{}", "+1".repeat(30_000))), TOO_COMPLEX);
        assert_eq!(code(format!("SELECT 1{}", " UNION SELECT 1".repeat(2000))), TOO_COMPLEX);
        let deep = |n: usize| (0..n).fold("1".to_owned(), |inner, _| format!("({inner}{})", "+1".repeat(100)));
        assert_eq!(code(format!("SELECT {}", deep(50))), TOO_COMPLEX);
        assert_eq!(code(format!("SELECT '{}'", "x".repeat(300_000))), TOO_COMPLEX);
        // Each bracket doubles the time that it takes to find the error, those of calls also where there is none.
        let within = |n: usize, call: &str, inner: &str| format!("SELECT {}{inner}{}", format!("{call} (").repeat(n), ")".repeat(n));
        for again in REREAD.into_iter().chain(["abs", "\"Abs\"", "coalesce (1), x", "1 + upper"]) {
            assert_eq!(code(within(30, again, "a b")), TOO_COMPLEX, "{again}");
        }
        assert_eq!(code(within(200, "NOT", "true")), TOO_COMPLEX);
        assert_eq!(code(within(8, "NOT", "a b")), SYNTAX);
        for many in [
            within(16, "abs", "a"),
            within(20, "1 +", "a"),
            within(8, "NOT", "true"),
            format!("SELECT {}true", "not (true) and ".repeat(50)),
        ] {
            only(&many);
        }
        let tables = (0..8).fold("t".to_owned(), |inner, _| format!("(SELECT a FROM {inner} AS x WHERE a IN (1, 2))"));
        only(&format!("SELECT a FROM {tables} AS x"));
        assert_eq!(code("SELECT $4000000000".into()), "54023");
        assert_eq!(code("SELECT $0".into()), "54023");
        // Lists are not deep.
        assert!(parse(&format!("SELECT 1 WHERE 1 IN (1{})", ",1".repeat(9000))).is_ok());
        // The deepest that passes: it is made, told, copied and taken apart with a thread's usual stack.
        let longest = only(&format!("SELECT 1{}", "+1".repeat(CHAIN / 2 - 1)));
        assert!(format!("{:?}", longest.clone()).len() > CHAIN);
    }

    #[test]
    fn a_syntax_error_says_so() {
        assert_eq!(parse("SELEC 1").unwrap_err().code, SYNTAX);
        assert_eq!(parse("SELECT 1 1 1").unwrap_err().code, SYNTAX);
        assert_eq!(parse("SELECT 'a").unwrap_err().code, SYNTAX);
        assert!(parse(" ; -- nothing\n").unwrap().is_empty());
    }
}
