//! Who may see what: tables, columns of them, and rows of them, as grants say.
//!
//! A grant is a text, `events.payments (id, time) WHERE country = 'DE'` ([`Grant`]). Whoever has grants is asked about a world of their own: its tables are those that
//! are granted, each behind a [`Veil`], and nothing else is there, neither for the engine nor in the catalogue.

mod grant;
mod veil;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Expr;

use crate::catalogue::SCHEMAS;
use crate::error::{Result, SqlError, UNDEFINED_COLUMN, UNDEFINED_OBJECT, UNDEFINED_TABLE};
use crate::tables::Placed;
pub use grant::Grant;
use veil::Condition;
pub use veil::Veil;

/// What somebody may see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// All tables, with all that is in them.
    Everything,
    /// What these grants say, and no more.
    Granted(Arc<[String]>),
}

/// Code of what a grant says that cannot be.
const BAD_GRANT: &str = "0LP01";

fn bad(message: impl Into<String>) -> SqlError {
    SqlError::new(BAD_GRANT, message)
}

/// A table that is granted.
pub struct Shown {
    pub placed: Placed,
    pub veil: Veil,
}

/// The tables that grants show, each as they show it. What cannot be given is told to `refuse` with the reason, and left out: nothing is shown that no grant names.
pub fn shown(all: &[Placed], grants: &[String], state: &SessionState, refuse: &mut dyn FnMut(&str, SqlError)) -> Vec<Shown> {
    let mut of_table: BTreeMap<(&str, &str), Vec<(&str, Grant)>> = BTreeMap::new();
    for text in grants {
        let grant = match Grant::parse(text) {
            Ok(grant) => grant,
            // Nobody knows which table it means: none of the others may show what it would not.
            Err(e) => {
                refuse(text, e);
                return Vec::new();
            }
        };
        let named: Vec<&Placed> = all.iter().filter(|placed| grant.is_of(placed.schema, &placed.name)).collect();
        match named.as_slice() {
            [] => refuse(text, missing(&grant, all)),
            named => named
                .iter()
                .for_each(|placed| of_table.entry((placed.schema, placed.name.as_str())).or_default().push((text, grant.clone()))),
        }
    }
    let mut found = Vec::new();
    for placed in all {
        let Some(grants) = of_table.get(&(placed.schema, placed.name.as_str())) else { continue };
        match veil(placed, grants, state) {
            Ok(veil) => {
                let table = veil.over(Arc::clone(&placed.table));
                found.push(Shown { placed: Placed { table, ..placed.clone() }, veil });
            }
            Err((text, e)) => refuse(text, e),
        }
    }
    found
}

/// What a grant says of nothing that is there.
fn missing(grant: &Grant, all: &[Placed]) -> SqlError {
    let Some(table) = grant.table() else {
        let message = format!("there is no table in schema \"{}\"", grant.schema());
        let schemas = kilter_core::list(SCHEMAS.iter().map(|(_, schema)| *schema));
        return SqlError::new(UNDEFINED_OBJECT, message).hint(format!("the schemas are {schemas}"));
    };
    let message = format!("there is no table \"{}.{table}\"", grant.schema());
    let elsewhere = all.iter().find(|placed| placed.name == table);
    let names: Vec<String> = all.iter().map(|placed| format!("{}.{}", placed.schema, placed.name)).collect();
    let near = elsewhere.map(|placed| format!("{}.{}", placed.schema, placed.name));
    let near =
        near.or_else(|| kilter_core::nearest(&format!("{}.{table}", grant.schema()), names.iter().map(String::as_str)).map(str::to_owned));
    let error = SqlError::new(UNDEFINED_TABLE, message);
    match near {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`GET /v1/sql/tables` lists them; a name without a schema is one of `public`"),
    }
}

/// What all grants for one table come to together; else which of them is wrong, and why.
fn veil<'a>(placed: &Placed, grants: &[(&'a str, Grant)], state: &SessionState) -> std::result::Result<Veil, (&'a str, SqlError)> {
    let schema = placed.table.schema();
    let name = format!("{}.{}", placed.schema, placed.name);
    let mut columns: Option<BTreeSet<usize>> = None;
    let mut rows: Option<Expr> = None;
    let mut shows_all = false;
    for (text, grant) in grants {
        let wrong = |e: SqlError| (*text, e);
        let own: BTreeSet<usize> = match grant.columns() {
            None => (0..schema.fields().len()).collect(),
            Some(names) => names.iter().map(|column| position(placed, column)).collect::<Result<BTreeSet<usize>>>().map_err(wrong)?,
        };
        if columns.as_ref().is_some_and(|known| *known != own) {
            let hint = "name the same columns in each, or one grant with OR between the conditions";
            return Err(wrong(bad(format!("two grants for {name} differ in their columns")).hint(hint)));
        }
        columns = Some(own);
        match grant.condition() {
            None => shows_all = true,
            Some(condition) => {
                let condition = veil::understood(condition, schema, state).map_err(wrong)?;
                rows = Some(match rows {
                    Some(others) => others.or(condition),
                    None => condition,
                });
            }
        }
    }
    let columns: Vec<usize> = columns.unwrap_or_default().into_iter().collect();
    let rows = match rows.filter(|_| !shows_all) {
        Some(rows) => {
            let text = grants.first().map_or("", |(text, _)| *text);
            Some(Arc::new(Condition::new(rows, placed.table.as_ref(), state).map_err(|e| (text, e))?))
        }
        None => None,
    };
    // What features are made of stands in the words on them.
    let is_wordless = placed.schema == "features";
    Ok(Veil::new(name, schema, columns, rows, is_wordless))
}

fn position(placed: &Placed, column: &str) -> Result<usize> {
    let schema = placed.table.schema();
    schema.index_of(column).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let message = format!("there is no column \"{column}\" in {}.{}", placed.schema, placed.name);
        let hint = match kilter_core::nearest(column, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", kilter_core::list(names)),
        };
        SqlError::new(UNDEFINED_COLUMN, message).hint(hint)
    })
}
