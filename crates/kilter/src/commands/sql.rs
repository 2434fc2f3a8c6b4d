//! The command `sql`: questions to the server that has the project open, or to one of the moment; one by one at a prompt.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use comfy_table::CellAlignment;
use serde_json::{Value, json};

use crate::api::{Api, Client, visible};
use crate::commands::table;

/// Rows of a table for people; files have all.
const ROWS: usize = 1000;
/// Types whose values stand on the right.
const NUMBERS: [&str; 7] = ["int2", "int4", "int8", "float4", "float8", "numeric", "oid"];
/// Formats beside tables for people, and what servers call them.
const FORMATS: [(&str, &str); 3] =
    [("csv", "text/csv"), ("json", "application/x-ndjson"), ("arrow", "application/vnd.apache.arrow.stream")];

const HELP: &str = "  a statement ends with `;` and may be of several lines
  \\d         the tables
  \\d TABLE   the columns of a table
  \\q         the end";

#[derive(clap::Args)]
pub struct Args {
    /// The question, such as "SELECT outcome, count(*) FROM decisions GROUP BY outcome". Without one they are read from standard input, each with a `;` at its
    /// end; at a terminal `\?` tells what else can be written.
    question: Option<String>,
    /// Read the questions from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    file: Option<PathBuf>,
    /// table, csv, json (one object a line) or arrow (a stream of record batches).
    #[arg(long, default_value = "table")]
    format: String,
    /// How long a question may take, in seconds, where a server allows so much.
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Ask this server instead of the project's, such as https://kilter.example.
    #[arg(long)]
    url: Option<String>,
    /// The key for it; else that of the environment variable KILTER_API_KEY.
    #[arg(long, requires = "url")]
    key: Option<String>,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let accept = match args.format.as_str() {
        "table" => None,
        word => Some(
            FORMATS
                .iter()
                .find(|(known, _)| *known == word)
                .map(|(_, accept)| *accept)
                .with_context(|| format!("`{word}` is no format\n  hint: table, {}", FORMATS.map(|(known, _)| known).join(", ")))?,
        ),
    };
    let text = match (args.question, &args.file) {
        (Some(question), _) => Some(question),
        (None, Some(file)) => Some(std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?),
        (None, None) => None,
    };
    let (client, api) = match &args.url {
        Some(url) => (Client::of_url(url, args.key)?, None),
        None => {
            let api = Api::open(dir).await?;
            (api.client.clone(), Some(api))
        }
    };
    let door = Door { client, accept, seconds: args.seconds };
    let asked = tokio::task::spawn_blocking(move || match text {
        Some(text) => door.talk(text.as_bytes(), false),
        None => door.talk(io::stdin().lock(), io::stdin().is_terminal()),
    });
    let asked = asked.await?;
    if let Some(api) = api {
        api.close().await?;
    }
    asked
}

/// Where questions go, and how answers are shown.
struct Door {
    client: Client,
    /// None: tables for people.
    accept: Option<&'static str>,
    seconds: u32,
}

impl Door {
    /// Answers what comes in until its end. At a prompt a mistake is told, else it is the end.
    fn talk(&self, mut input: impl BufRead, is_prompt: bool) -> anyhow::Result<()> {
        let mut text = String::new();
        loop {
            if is_prompt {
                print!("{}", if text.trim().is_empty() { "kilter=> " } else { "kilter-> " });
                io::stdout().flush()?;
            }
            let mut line = String::new();
            let is_end = input.read_line(&mut line)? == 0;
            if let Some(word) = line.trim().strip_prefix('\\').filter(|_| text.trim().is_empty()) {
                if word == "q" {
                    return Ok(());
                }
                told(self.describe(word), is_prompt)?;
                continue;
            }
            text += &line;
            let (statements, rest) = cut(&text);
            for statement in statements.into_iter().chain((is_end && says(rest)).then_some(rest)) {
                told(self.ask(statement), is_prompt)?;
            }
            if is_end {
                if is_prompt {
                    println!();
                }
                return Ok(());
            }
            text = rest.to_string();
        }
    }

    fn ask(&self, statement: &str) -> anyhow::Result<()> {
        let Some(accept) = self.accept else {
            let question = json!({ "query": statement, "limit": ROWS, "seconds": self.seconds });
            print_answer(&self.client.post("/v1/sql", question.to_string().as_bytes())?);
            return Ok(());
        };
        let question = json!({ "query": statement, "seconds": self.seconds });
        let mut answer = self.client.post_for("/v1/sql", accept, question.to_string().as_bytes())?;
        let mut out = io::stdout().lock();
        io::copy(&mut answer, &mut out).context("the answer is not whole")?;
        Ok(out.flush()?)
    }

    /// What a word behind a backslash asks for.
    fn describe(&self, word: &str) -> anyhow::Result<()> {
        let (command, name) = word.split_once(char::is_whitespace).map_or((word, ""), |(command, name)| (command, name.trim()));
        match (command, name.trim_end_matches(';')) {
            ("?", _) => println!("{HELP}"),
            ("d" | "dt" | "d+" | "dt+", name) => print_tables(&self.client.get("/v1/sql/tables")?, name)?,
            _ => anyhow::bail!("there is no `\\{command}`\n{HELP}"),
        }
        Ok(())
    }
}

/// At a prompt one goes on after a mistake.
fn told(done: anyhow::Result<()>, is_prompt: bool) -> anyhow::Result<()> {
    match done {
        Err(e) if is_prompt => {
            eprintln!("error: {e:#}");
            Ok(())
        }
        done => done,
    }
}

fn print_answer(answer: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns = list(&answer["columns"]);
    let names: Vec<String> = columns.iter().map(|column| shown(&column["name"])).collect();
    let mut out = table(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = list(&answer["rows"]);
    for row in &rows {
        out.add_row(row.as_array().into_iter().flatten().map(shown));
    }
    for (at, column) in columns.iter().enumerate() {
        if let (true, Some(column)) = (NUMBERS.iter().any(|number| column["type"] == *number), out.column_mut(at)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{out}");
    let seconds = answer["seconds"].as_f64().unwrap_or_default();
    let rows = rows.len();
    if answer["truncated"] == true {
        println!("(the first {rows} rows, {seconds:.3} s; --format csv has all)");
    } else {
        println!("({rows} row{}, {seconds:.3} s)", if rows == 1 { "" } else { "s" });
    }
}

fn print_tables(answer: &Value, name: &str) -> anyhow::Result<()> {
    let tables = answer["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let list = |what: &[&Value], heads: [&str; 3], members: [&str; 3]| {
        let mut out = table(&heads);
        for value in what {
            out.add_row(members.map(|member| shown(&value[member])));
        }
        println!("{out}");
    };
    if name.is_empty() {
        list(&tables.iter().collect::<Vec<_>>(), ["schema", "table", "what it is"], ["schema", "name", "comment"]);
        return Ok(());
    }
    let (schema, bare) = name.split_once('.').map_or((None, name), |(schema, bare)| (Some(schema), bare));
    let is_named = |table: &&Value| table["name"] == bare && schema.is_none_or(|schema| table["schema"] == schema);
    let found = tables.iter().find(is_named).with_context(|| {
        let near = kilter_core::nearest(bare, tables.iter().filter_map(|table| table["name"].as_str()));
        let hint = near.map_or("`\\d` lists them".to_string(), |near| format!("did you mean `{near}`?"));
        format!("there is no table `{name}`\n  hint: {hint}")
    })?;
    println!("{}.{}: {}", shown(&found["schema"]), shown(&found["name"]), shown(&found["comment"]));
    let columns: Vec<&Value> = found["columns"].as_array().into_iter().flatten().collect();
    list(&columns, ["column", "type", "what it is"], ["name", "type", "comment"]);
    Ok(())
}

/// A value as a cell. What would tell a terminal to do something is told instead.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text),
        other => other.to_string(),
    }
}

/// Where in SQL a character stands.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Code,
    /// A text or a quoted name, up to this.
    Quotes(char),
    Line,
    /// Comments within comments.
    Comment(u32),
    /// A text between two of the same tag in dollars, which lies there.
    Dollars(usize, usize),
}

/// The statements of a text that have their `;`, without it, and what follows the last of them.
fn cut(text: &str) -> (Vec<&str>, &str) {
    let (mut statements, mut begin) = (Vec::new(), 0);
    scan(text, |at, within| {
        if within == Within::Code && text[at..].starts_with(';') {
            if says(&text[begin..at]) {
                statements.push(text[begin..at].trim());
            }
            begin = at + 1;
        }
    });
    (statements, &text[begin..])
}

/// Whether there is more than space and comments.
fn says(text: &str) -> bool {
    let mut says = false;
    scan(text, |at, within| match within {
        Within::Code => says |= !text[at..].starts_with(char::is_whitespace),
        Within::Quotes(_) | Within::Dollars(..) => says = true,
        Within::Line | Within::Comment(_) => {}
    });
    says
}

/// Goes through a text, telling of each character where it stands.
fn scan(text: &str, mut tell: impl FnMut(usize, Within)) {
    let mut within = Within::Code;
    let mut passed = 0;
    for (at, c) in text.char_indices() {
        if at < passed {
            continue;
        }
        let rest = &text[at..];
        match within {
            Within::Code => {
                within = match c {
                    '\'' | '"' => Within::Quotes(c),
                    '-' if rest.starts_with("--") => Within::Line,
                    '/' if rest.starts_with("/*") => {
                        passed = at + 2;
                        Within::Comment(1)
                    }
                    '$' => match tag(text, at) {
                        Some(end) => {
                            passed = end;
                            Within::Dollars(at, end)
                        }
                        None => Within::Code,
                    },
                    _ => Within::Code,
                };
                tell(at, within);
            }
            Within::Quotes(quote) => {
                tell(at, within);
                // A doubled quote ends one text and begins the next.
                if c == quote {
                    within = Within::Code;
                }
            }
            Within::Line => {
                tell(at, within);
                if c == '\n' {
                    within = Within::Code;
                }
            }
            Within::Comment(depth) => {
                tell(at, within);
                if rest.starts_with("/*") {
                    passed = at + 2;
                    within = Within::Comment(depth + 1);
                } else if rest.starts_with("*/") {
                    passed = at + 2;
                    within = if depth == 1 { Within::Code } else { Within::Comment(depth - 1) };
                }
            }
            Within::Dollars(from, to) => {
                tell(at, within);
                if rest.starts_with(&text[from..to]) {
                    passed = at + to - from;
                    within = Within::Code;
                }
            }
        }
    }
}

/// The end of a tag such as `$$` or `$body$` that begins here.
fn tag(text: &str, at: usize) -> Option<usize> {
    // Behind a name a dollar is a part of it.
    if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
        return None;
    }
    let length = text[at + 1..].find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let is_parameter = text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    (!is_parameter && text[at + 1 + length..].starts_with('$')).then_some(at + length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_where_its_semicolon_is_no_part_of_a_text() {
        for (text, statements, rest) in [
            ("select 1; select 2", &["select 1"][..], " select 2"),
            ("select 1;\nselect 2;\n", &["select 1", "select 2"], "\n"),
            (";; select 1 ;", &["select 1"], ""),
            ("select ';', 'it''s; so', \";\"; x", &["select ';', 'it''s; so', \";\""], " x"),
            ("select 1 -- one; two\n;", &["select 1 -- one; two"], ""),
            ("select /* a; /* b; */ c; */ 1; ", &["select /* a; /* b; */ c; */ 1"], " "),
            ("select $$a;$$, $t$ $$; $t$, $1, a$b;", &["select $$a;$$, $t$ $$; $t$, $1, a$b"], ""),
            ("select 'open; ", &[], "select 'open; "),
            ("-- nothing;\n;select 1;", &["select 1"], ""),
            ("sélect 'é;';ü", &["sélect 'é;'"], "ü"),
        ] {
            assert_eq!(cut(text), (statements.to_vec(), rest), "{text}");
        }
    }

    #[test]
    fn space_and_comments_say_nothing() {
        for nothing in ["", " \n", "-- words", "/* words */ ", "/* open"] {
            assert!(!says(nothing), "{nothing}");
        }
        for something in ["select", "/* words */ 1", "''", "-- words\n1", "$$"] {
            assert!(says(something), "{something}");
        }
    }

    #[test]
    fn a_cell_is_told_as_it_is_and_commands_a_terminal_to_nothing() {
        for (value, cell) in [
            (json!(null), ""),
            (json!(0.1), "0.1"),
            (json!(true), "true"),
            (json!("two\nlines, ü"), "two\nlines, ü"),
            (json!("\u{1b}[2J\tx"), "\\u{1b}[2J\\tx"),
        ] {
            assert_eq!(shown(&value), cell);
        }
    }
}
