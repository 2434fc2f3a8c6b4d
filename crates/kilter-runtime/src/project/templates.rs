//! `kilter new`: a folder to begin with.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{FILE_NAME, json_schema};

/// A project to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub name: &'static str,
    pub description: &'static str,
    /// Its `kilter.toml`.
    pub text: &'static str,
}

/// The templates, the first being the usual one.
pub static TEMPLATES: [Template; 3] = [
    Template {
        name: "blank",
        description: "one source, view, model and decision, every line explained",
        text: include_str!("../../templates/blank.toml"),
    },
    Template {
        name: "credit-risk",
        description: "a lender: loan applications decided on the account's history",
        text: include_str!("../../../../examples/credit-risk/kilter.toml"),
    },
    Template {
        name: "card-fraud",
        description: "card payments blocked on the history of customer and terminal",
        text: include_str!("../../templates/card-fraud.toml"),
    },
];

/// Where the schema of the definitions lies in a new project; editors find it by the first line of `kilter.toml`.
const SCHEMA_FILE: &str = "kilter.schema.json";

/// Why no project was made.
#[derive(Debug)]
pub enum NewProjectError {
    UnknownTemplate(String),
    NotEmpty(PathBuf),
    BadName(String),
    Io(PathBuf, std::io::Error),
}

impl fmt::Display for NewProjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = || TEMPLATES.iter().map(|t| t.name);
        match self {
            NewProjectError::UnknownTemplate(name) => {
                write!(f, "there is no template `{name}`\n  hint: ")?;
                match kilter_core::nearest(name, names()) {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "templates: {}", kilter_core::list(names())),
                }
            }
            NewProjectError::NotEmpty(dir) => {
                write!(f, "{} is not empty\n  hint: name a folder that does not exist yet", dir.display())
            }
            NewProjectError::BadName(name) => {
                write!(f, "`{name}` cannot name a project\n  hint: letters, digits, `-` and `_`, a letter first")
            }
            NewProjectError::Io(path, e) => write!(f, "{} cannot be written: {e}", path.display()),
        }
    }
}

impl std::error::Error for NewProjectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NewProjectError::Io(_, e) => Some(e),
            _ => None,
        }
    }
}

/// Makes a project in a folder that is empty or not there yet, and says which files it wrote.
pub fn new_project(dir: &Path, template: &str) -> Result<Vec<PathBuf>, NewProjectError> {
    let Some(template) = TEMPLATES.iter().find(|t| t.name == template) else {
        return Err(NewProjectError::UnknownTemplate(template.to_owned()));
    };
    let name = project_name(dir)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e| NewProjectError::Io(path, e)
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    if std::fs::read_dir(dir).map_err(io(dir))?.next().is_some() {
        return Err(NewProjectError::NotEmpty(dir.to_owned()));
    }
    let mut schema = serde_json::to_string_pretty(&json_schema()).unwrap_or_default();
    schema.push('\n');
    let files = [
        (FILE_NAME, named(template.text, &name)),
        (SCHEMA_FILE, schema),
        (".gitignore", "# The event log, snapshots and models: data, not definitions.\n/kilter-data/\n".to_owned()),
    ];
    let mut written = Vec::new();
    for (file, text) in files {
        let path = dir.join(file);
        std::fs::write(&path, text).map_err(io(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// The folder's name, as far as it can name a project.
fn project_name(dir: &Path) -> Result<String, NewProjectError> {
    let absolute = std::path::absolute(dir).map_err(|e| NewProjectError::Io(dir.to_owned(), e))?;
    let folder = absolute.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default();
    let name: String = folder.to_lowercase().chars().map(|c| if c == ' ' || c == '.' { '-' } else { c }).collect();
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if fits { Ok(name) } else { Err(NewProjectError::BadName(folder)) }
}

/// The template under the new project's name, its first line naming the schema beside it.
fn named(text: &str, name: &str) -> String {
    let mut renamed = false;
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("#:schema ") {
            out.push_str(&format!("#:schema ./{SCHEMA_FILE}"));
        } else if !renamed && line.starts_with("name = ") {
            renamed = true;
            out.push_str(&format!("name = \"{name}\""));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}
