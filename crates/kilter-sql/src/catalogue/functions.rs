//! Functions of PostgreSQL's catalogue, for SQLite.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Error, Result};
use serde_json::Value as Json;

use super::facts::{Facts, OWNER, parts};
use crate::rights::Rights;
use crate::session::Session;
use crate::tables::SEARCH_PATH;

/// Functions that only the catalogue knows, and the type of what they answer.
const KNOWN: &[(&str, &str)] = &[
    ("col_description", "text"),
    ("current_schemas", "_name"),
    ("format_type", "text"),
    ("has_any_column_privilege", "bool"),
    ("has_column_privilege", "bool"),
    ("has_database_privilege", "bool"),
    ("has_function_privilege", "bool"),
    ("has_schema_privilege", "bool"),
    ("has_sequence_privilege", "bool"),
    ("has_table_privilege", "bool"),
    ("obj_description", "text"),
    ("pg_char_to_encoding", "int4"),
    ("pg_client_encoding", "name"),
    ("pg_collation_is_visible", "bool"),
    ("pg_conversion_is_visible", "bool"),
    ("pg_database_size", "int8"),
    ("pg_encoding_to_char", "name"),
    ("pg_function_is_visible", "bool"),
    ("pg_get_constraintdef", "text"),
    ("pg_get_expr", "text"),
    ("pg_get_function_arg_default", "text"),
    ("pg_get_function_arguments", "text"),
    ("pg_get_function_identity_arguments", "text"),
    ("pg_get_function_result", "text"),
    ("pg_get_function_sqlbody", "text"),
    ("pg_get_functiondef", "text"),
    ("pg_get_indexdef", "text"),
    ("pg_get_keywords", "text"),
    ("pg_get_partition_constraintdef", "text"),
    ("pg_get_partkeydef", "text"),
    ("pg_get_ruledef", "text"),
    ("pg_get_serial_sequence", "text"),
    ("pg_get_statisticsobjdef_columns", "text"),
    ("pg_get_triggerdef", "text"),
    ("pg_get_userbyid", "name"),
    ("pg_get_viewdef", "text"),
    ("pg_has_role", "bool"),
    ("pg_indexes_size", "int8"),
    ("pg_is_other_temp_schema", "bool"),
    ("pg_opclass_is_visible", "bool"),
    ("pg_operator_is_visible", "bool"),
    ("pg_relation_is_publishable", "bool"),
    ("pg_relation_size", "int8"),
    ("pg_size_pretty", "text"),
    ("pg_statistics_obj_is_visible", "bool"),
    ("pg_table_is_visible", "bool"),
    ("pg_table_size", "int8"),
    ("pg_tablespace_location", "text"),
    ("pg_total_relation_size", "int8"),
    ("pg_ts_config_is_visible", "bool"),
    ("pg_type_is_visible", "bool"),
    ("parse_ident", "_text"),
    ("quote_ident", "text"),
    ("shobj_description", "text"),
    ("to_regclass", "regclass"),
    ("to_regnamespace", "regnamespace"),
    ("to_regtype", "regtype"),
    ("row_security_active", "bool"),
    ("pg_stat_get_numscans", "int8"),
    ("pg_stat_get_tuples_inserted", "int8"),
    ("pg_stat_get_live_tuples", "int8"),
    ("pg_get_multixact_members", "text"),
    ("pg_timezone_names", "text"),
    ("pg_listening_channels", "text"),
    ("pg_postmaster_start_time", "timestamptz"),
    ("pg_conf_load_time", "timestamptz"),
];

/// Types of what other functions answer.
const OTHERS: &[(&str, &str)] = &[
    ("array_length", "int4"),
    ("array_lower", "int4"),
    ("array_position", "int4"),
    ("array_to_string", "text"),
    ("array_upper", "int4"),
    ("bool_and", "bool"),
    ("bool_or", "bool"),
    ("every", "bool"),
    ("btrim", "text"),
    ("cardinality", "int4"),
    ("concat", "text"),
    ("json_build_object", "json"),
    ("jsonb_build_object", "jsonb"),
    ("json_agg", "json"),
    ("jsonb_agg", "jsonb"),
    ("left", "text"),
    ("length", "int4"),
    ("lower", "text"),
    ("pg_all_by", "bool"),
    ("pg_any", "bool"),
    ("pg_any_by", "bool"),
    ("pg_array", "_text"),
    ("pg_bool", "bool"),
    ("pg_index_column_has_property", "bool"),
    ("pg_like", "bool"),
    ("pg_regex", "bool"),
    ("pg_sets", "bool"),
    ("quote_literal", "text"),
    ("regexp_replace", "text"),
    ("replace", "text"),
    ("right", "text"),
    ("split_part", "text"),
    ("string_agg", "text"),
    ("string_to_array", "_text"),
    ("strpos", "int4"),
    ("substring", "text"),
    ("translate", "text"),
    ("upper", "text"),
];

pub fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

pub fn returns(name: &str) -> Option<&'static str> {
    KNOWN.iter().chain(OTHERS).find(|(known, _)| *known == name).map(|(_, returned)| *returned)
}

/// Rights that everybody has who is let in.
const HELD: [&str; 4] = ["connect", "execute", "select", "usage"];

/// A text of more bytes than this is made by no function.
const LONGEST: usize = 1 << 20;

/// Makes them known to a connection.
pub fn register(db: &Connection, facts: &Arc<Facts>) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    // What there is nothing of here: definitions, sizes, and what only PostgreSQL's own storage has.
    for (name, returned) in KNOWN {
        let answer = match *returned {
            "bool" => Value::Integer(i64::from(!matches!(
                *name,
                "pg_is_other_temp_schema" | "row_security_active" | "pg_relation_is_publishable"
            ))),
            "int8" | "int4" => Value::Integer(0),
            _ => Value::Null,
        };
        db.create_scalar_function(*name, -1, flags, move |_: &Context<'_>| Ok(answer.clone()))?;
    }
    for arguments in [1, 2] {
        // What a parameter names; where it stands in the text, the session has told already.
        db.create_scalar_function("current_setting", arguments, flags, |c: &Context<'_>| {
            Ok(c.get::<Option<String>>(0)?.and_then(|name| Session::new(OWNER, "", Rights::Everything).setting(&name)))
        })?;
    }
    for (name, _) in KNOWN.iter().filter(|(name, _)| name.starts_with("has_")) {
        db.create_scalar_function(*name, -1, flags, |c: &Context<'_>| {
            let rights = c.len().checked_sub(1).and_then(|last| text(c, last));
            Ok(rights.map(|rights| rights.split(',').any(|right| HELD.contains(&right.trim().to_lowercase().as_str()))))
        })?;
    }
    db.create_scalar_function("pg_get_userbyid", 1, flags, |_: &Context<'_>| Ok(OWNER))?;
    db.create_scalar_function("pg_encoding_to_char", 1, flags, |_: &Context<'_>| Ok("UTF8"))?;
    db.create_scalar_function("pg_client_encoding", 0, flags, |_: &Context<'_>| Ok("UTF8"))?;
    db.create_scalar_function("pg_char_to_encoding", 1, flags, |_: &Context<'_>| Ok(6))?;
    db.create_scalar_function("pg_size_pretty", 1, flags, |c: &Context<'_>| {
        Ok(format!("{} bytes", c.get::<Option<i64>>(0)?.unwrap_or(0)))
    })?;
    db.create_scalar_function("current_schemas", 1, flags, |c: &Context<'_>| {
        let own = SEARCH_PATH.iter().copied();
        let all: Vec<&str> = c.get::<bool>(0)?.then_some("pg_catalog").into_iter().chain(own).collect();
        Ok(serde_json::json!(all).to_string())
    })?;
    let of = |f: fn(&Facts, &Context<'_>) -> Result<Value>| {
        let facts = Arc::clone(facts);
        move |c: &Context<'_>| f(&facts, c)
    };
    db.create_scalar_function("format_type", 2, flags, of(|facts, c| Ok(optional(oid(c, 0).map(|oid| facts.display(oid))))))?;
    for arguments in [1, 2] {
        db.create_scalar_function(
            "obj_description",
            arguments,
            flags,
            of(|facts, c| Ok(optional(oid(c, 0).and_then(|oid| facts.comment(oid, 0))))),
        )?;
    }
    db.create_scalar_function(
        "col_description",
        2,
        flags,
        of(|facts, c| {
            let place = c.get::<Option<i64>>(1)?.unwrap_or(0);
            Ok(optional(oid(c, 0).and_then(|oid| facts.comment(oid, place))))
        }),
    )?;
    db.create_scalar_function(
        "pg_reg",
        2,
        flags,
        of(|facts, c| {
            let kind: String = c.get(0)?;
            match c.get_raw(1) {
                ValueRef::Text(text) => {
                    let text = String::from_utf8_lossy(text);
                    match text.parse::<i64>().ok().or_else(|| facts.oid(&kind, &text)) {
                        Some(oid) => Ok(Value::Integer(oid)),
                        None => Err(failed(format!("{} \"{text}\" does not exist", what(&kind)))),
                    }
                }
                other => Ok(other.try_into().unwrap_or(Value::Null)),
            }
        }),
    )?;
    for (name, kind) in [("to_regclass", "regclass"), ("to_regtype", "regtype"), ("to_regnamespace", "regnamespace")] {
        let facts = Arc::clone(facts);
        db.create_scalar_function(name, 1, flags, move |c: &Context<'_>| {
            Ok(c.get::<Option<String>>(0)?.and_then(|text| facts.oid(kind, &text)))
        })?;
    }
    db.create_scalar_function(
        "pg_reg_text",
        2,
        flags,
        of(|facts, c| {
            let kind: String = c.get(0)?;
            Ok(optional(oid(c, 1).map(|oid| facts.name(&kind, oid))))
        }),
    )?;
    register_general(db, flags)
}

/// Functions and operators on values.
fn register_general(db: &Connection, flags: FunctionFlags) -> Result<()> {
    db.create_scalar_function("pg_bool", 1, flags, |c: &Context<'_>| {
        Ok(match c.get_raw(0) {
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text).trim().to_lowercase();
                Some(matches!(text.as_str(), "t" | "true" | "on" | "yes" | "y" | "1"))
            }
            ValueRef::Integer(n) => Some(n != 0),
            _ => None,
        })
    })?;
    db.create_scalar_function("pg_bool_text", 1, flags, |c: &Context<'_>| {
        Ok(c.get::<Option<bool>>(0)?.map(|x| if x { "true" } else { "false" }))
    })?;
    db.create_scalar_function("pg_regex", 3, flags, |c: &Context<'_>| {
        let (Some(text), Some(pattern)) = (text(c, 0), text(c, 1)) else { return Ok(None) };
        let operator: String = c.get(2)?;
        Ok(Some(regex(&pattern, operator.ends_with('*'))?.is_match(&text) != operator.starts_with('!')))
    })?;
    db.create_scalar_function("pg_like", 4, flags, |c: &Context<'_>| {
        let (Some(text), Some(pattern)) = (text(c, 0), text(c, 1)) else { return Ok(None) };
        let operator: String = c.get(2)?;
        let escape = c.get::<Option<String>>(3)?.map_or(Some('\\'), |escape| escape.chars().next());
        let matches = regex(&like(&pattern, escape), operator.ends_with('*'))?.is_match(&text);
        Ok(Some(matches != operator.starts_with('!')))
    })?;
    db.create_scalar_function("pg_any", 2, flags, |c: &Context<'_>| Ok(quantified(c, 1, "=").map(|(any, _)| any)))?;
    db.create_scalar_function("pg_any_by", 3, flags, |c: &Context<'_>| {
        let operator: String = c.get(1)?;
        Ok(quantified(c, 2, &operator).map(|(any, _)| any))
    })?;
    db.create_scalar_function("pg_all_by", 3, flags, |c: &Context<'_>| {
        let operator: String = c.get(1)?;
        Ok(quantified(c, 2, &operator).map(|(_, all)| all))
    })?;
    db.create_scalar_function("pg_sets", 3, flags, |c: &Context<'_>| {
        let (Some(a), Some(b)) = (list(c, 0), list(c, 2)) else { return Ok(None) };
        Ok(Some(match c.get::<String>(1)?.as_str() {
            "@>" => b.iter().all(|x| a.contains(x)),
            "<@" => a.iter().all(|x| b.contains(x)),
            _ => a.iter().any(|x| b.contains(x)),
        }))
    })?;
    db.create_scalar_function("pg_array", 1, flags, |c: &Context<'_>| Ok(list(c, 0).map(|items| Json::Array(items).to_string())))?;
    db.create_scalar_function("pg_element", 2, flags, |c: &Context<'_>| {
        let (Some(items), Some(place)) = (list(c, 0), c.get::<Option<i64>>(1)?) else { return Ok(Value::Null) };
        Ok(usize::try_from(place).ok().and_then(|place| items.get(place)).map_or(Value::Null, value))
    })?;
    for name in ["array_length", "array_upper"] {
        db.create_scalar_function(name, 2, flags, |c: &Context<'_>| {
            Ok(list(c, 0).filter(|items| !items.is_empty()).map(|items| items.len() as i64))
        })?;
    }
    db.create_scalar_function("array_lower", 2, flags, |c: &Context<'_>| Ok(list(c, 0).filter(|items| !items.is_empty()).map(|_| 1)))?;
    db.create_scalar_function("cardinality", 1, flags, |c: &Context<'_>| Ok(list(c, 0).map(|items| items.len() as i64)))?;
    db.create_scalar_function("array_position", 2, flags, |c: &Context<'_>| {
        let Some(items) = list(c, 0) else { return Ok(None) };
        let wanted = json(c.get_raw(1));
        Ok(items.iter().position(|item| *item == wanted).map(|place| place as i64 + 1))
    })?;
    for arguments in [2, 3] {
        db.create_scalar_function("array_to_string", arguments, flags, |c: &Context<'_>| {
            let (Some(items), Some(separator)) = (list(c, 0), text(c, 1)) else { return Ok(None) };
            let null = if c.len() > 2 { text(c, 2) } else { None };
            let mut joined = String::new();
            let texts = items.iter().filter_map(|item| if item.is_null() { null.clone() } else { Some(words(item)) });
            for (i, text) in texts.enumerate() {
                joined.push_str(if i > 0 { &separator } else { "" });
                joined.push_str(&text);
                fits(joined.len())?;
            }
            Ok(Some(joined))
        })?;
        db.create_scalar_function("string_to_array", arguments, flags, |c: &Context<'_>| {
            let (Some(text), Some(separator)) = (text(c, 0), text(c, 1)) else { return Ok(None) };
            let parts: Vec<&str> = match (text.is_empty(), separator.is_empty()) {
                (true, _) => Vec::new(),
                (false, true) => vec![&text],
                (false, false) => text.split(&separator).collect(),
            };
            Ok(Some(serde_json::json!(parts).to_string()))
        })?;
        db.create_scalar_function("pg_series", arguments, flags, |c: &Context<'_>| {
            let (Some(from), Some(to)) = (c.get::<Option<i64>>(0)?, c.get::<Option<i64>>(1)?) else { return Ok(None) };
            let step = if c.len() > 2 { c.get::<i64>(2)?.unsigned_abs().max(1) } else { 1 };
            let series: Vec<i64> = (from..=to).step_by(usize::try_from(step).unwrap_or(1)).take(10_000).collect();
            Ok(Some(serde_json::json!(series).to_string()))
        })?;
        db.create_scalar_function("pg_subscripts", arguments, flags, |c: &Context<'_>| {
            Ok(list(c, 0).map(|items| serde_json::json!((1..=items.len()).collect::<Vec<usize>>()).to_string()))
        })?;
    }
    db.create_scalar_function("parse_ident", 1, flags, |c: &Context<'_>| {
        Ok(text(c, 0).map(|name| serde_json::json!(parts(&name)).to_string()))
    })?;
    db.create_scalar_function("quote_ident", 1, flags, |c: &Context<'_>| {
        Ok(text(c, 0).map(|name| {
            let is_plain = name.starts_with(|x: char| x.is_ascii_lowercase() || x == '_')
                && name.chars().all(|x| x.is_ascii_lowercase() || x.is_ascii_digit() || x == '_');
            if is_plain { name } else { format!("\"{}\"", name.replace('"', "\"\"")) }
        }))
    })?;
    db.create_scalar_function("quote_literal", 1, flags, |c: &Context<'_>| Ok(text(c, 0).map(|x| format!("'{}'", x.replace('\'', "''")))))?;
    db.create_scalar_function("split_part", 3, flags, |c: &Context<'_>| {
        let (Some(text), Some(separator), Some(place)) = (text(c, 0), text(c, 1), c.get::<Option<i64>>(2)?) else { return Ok(None) };
        Ok(Some(usize::try_from(place - 1).ok().and_then(|place| text.split(&separator).nth(place)).unwrap_or_default().to_owned()))
    })?;
    db.create_scalar_function("left", 2, flags, |c: &Context<'_>| {
        let (Some(text), Some(n)) = (text(c, 0), c.get::<Option<i64>>(1)?) else { return Ok(None) };
        let n = if n < 0 { text.chars().count().saturating_sub(n.unsigned_abs() as usize) } else { n as usize };
        Ok(Some(text.chars().take(n).collect::<String>()))
    })?;
    for arguments in [3, 4] {
        db.create_scalar_function("regexp_replace", arguments, flags, |c: &Context<'_>| {
            let (Some(text), Some(pattern), Some(new)) = (text(c, 0), text(c, 1), text(c, 2)) else { return Ok(None) };
            let options = if c.len() > 3 { c.get::<String>(3)? } else { String::new() };
            let regex = regex(&pattern, options.contains('i'))?;
            let new = new.replace('\\', "$");
            let most = if options.contains('g') { usize::MAX } else { 1 };
            let (mut replaced, mut end) = (String::new(), 0);
            for found in regex.captures_iter(&text).take(most) {
                let Some(whole) = found.get(0) else { continue };
                replaced.push_str(&text[end..whole.start()]);
                end = whole.end();
                // A name in it stands for the whole text at most.
                fits(replaced.len().saturating_add(new.len().saturating_mul(whole.len() + 1)))?;
                found.expand(&new, &mut replaced);
            }
            replaced.push_str(&text[end..]);
            fits(replaced.len())?;
            Ok(Some(replaced))
        })?;
    }
    db.create_scalar_function("translate", 3, flags, |c: &Context<'_>| {
        let (Some(text), Some(from), Some(to)) = (text(c, 0), text(c, 1), text(c, 2)) else { return Ok(None) };
        let to: Vec<char> = to.chars().collect();
        let new = text.chars().filter_map(|x| match from.chars().position(|y| x == y) {
            Some(place) => to.get(place).copied(),
            None => Some(x),
        });
        Ok(Some(new.collect::<String>()))
    })
}

fn fits(length: usize) -> Result<()> {
    if length > LONGEST { Err(failed("the text becomes too long".into())) } else { Ok(()) }
}

fn failed(message: String) -> Error {
    Error::UserFunctionError(message.into())
}

fn what(kind: &str) -> &'static str {
    match kind {
        "regclass" => "relation",
        "regtype" => "type",
        "regnamespace" => "schema",
        "regrole" => "role",
        _ => "function",
    }
}

fn optional(text: Option<String>) -> Value {
    text.map_or(Value::Null, Value::Text)
}

fn oid(c: &Context<'_>, place: usize) -> Option<i64> {
    match c.get_raw(place) {
        ValueRef::Integer(oid) => Some(oid),
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn text(c: &Context<'_>, place: usize) -> Option<String> {
    match c.get_raw(place) {
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Null | ValueRef::Blob(_) => None,
    }
}

fn json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Json::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(x) => x.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
    }
}

fn value(item: &Json) -> Value {
    match item {
        Json::Null => Value::Null,
        Json::Bool(x) => Value::Integer(i64::from(*x)),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Real(n.as_f64().unwrap_or(0.0)), Value::Integer),
        other => Value::Text(words(other)),
    }
}

pub fn words(item: &Json) -> String {
    match item {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The items of an array: JSON, PostgreSQL's `{a,b}`, or the numbers of a vector.
fn list(c: &Context<'_>, place: usize) -> Option<Vec<Json>> {
    items(&text(c, place)?)
}

pub fn items(text: &str) -> Option<Vec<Json>> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text).ok();
    }
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let scalar = |word: &str| match word.trim_matches('"') {
        "NULL" => Json::Null,
        word => word.parse::<i64>().map_or_else(|_| word.into(), Json::from),
    };
    Some(match inner {
        Some("") => Vec::new(),
        Some(inner) => inner.split(',').map(scalar).collect(),
        None => text.split_whitespace().map(scalar).collect(),
    })
}

/// Whether a comparison holds for any and for all items of an array; none: not known.
fn quantified(c: &Context<'_>, array: usize, operator: &str) -> Option<(bool, bool)> {
    let items = list(c, array)?;
    let left = json(c.get_raw(0));
    if left.is_null() {
        return None;
    }
    let holds = |item: &Json| {
        let order = match (left.as_i64(), item.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => words(&left).cmp(&words(item)),
        };
        match operator {
            "=" => order.is_eq(),
            "<>" | "!=" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            ">=" => order.is_ge(),
            "~~" => regex(&like(&words(item), Some('\\')), false).is_ok_and(|regex| regex.is_match(&words(&left))),
            "~" => regex(&words(item), false).is_ok_and(|regex| regex.is_match(&words(&left))),
            _ => false,
        }
    };
    Some((items.iter().any(holds), items.iter().all(holds)))
}

fn regex(pattern: &str, any_case: bool) -> Result<Regex> {
    let built = RegexBuilder::new(pattern).case_insensitive(any_case).dot_matches_new_line(true).size_limit(1 << 20).build();
    built.map_err(|e| failed(format!("invalid regular expression: {e}")))
}

/// A pattern of LIKE as a regular expression.
fn like(pattern: &str, escape: Option<char>) -> String {
    let mut regex = String::from("^");
    let mut rest = pattern.chars();
    while let Some(x) = rest.next() {
        match x {
            x if Some(x) == escape => regex.extend(rest.next().map(|x| regex::escape(&x.to_string()))),
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            x => regex.push_str(&regex::escape(&x.to_string())),
        }
    }
    regex.push('$');
    regex
}
