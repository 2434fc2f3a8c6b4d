//! What the catalogue tells: types, schemas, tables, columns, and the words on them.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::{DataType, SchemaRef};

use crate::encode::pg_type;
use crate::tables::{COMMENT, Placed, SEARCH_PATH};

/// Whom everything belongs to.
pub const OWNER: &str = "kilter";
pub const OWNER_OID: i64 = 10;
pub const PG_CATALOG: i64 = 11;
pub const PUBLIC: i64 = 2200;
pub const INFORMATION_SCHEMA: i64 = 13_000;
/// Where the tables of the project lie.
pub const SCHEMAS: [(i64, &str); 4] = [(PUBLIC, "public"), (16_383, "events"), (16_382, "features"), (16_381, "tracking")];
/// Oids of PostgreSQL's own tables that others refer to.
pub const PG_CLASS: i64 = 1259;
pub const DATABASE: i64 = 16_000;
/// Where oids of tables begin.
const FIRST: i64 = 20_000;

/// A type as pg_type has it.
pub struct TypeRow {
    pub oid: i64,
    pub name: &'static str,
    /// Bytes; -1: it varies.
    pub length: i64,
    pub category: char,
    /// Oid of the type of arrays of it; 0: there is none.
    pub array: i64,
    /// Name and oid of the function that reads it in binary.
    pub receive: (&'static str, i64),
    /// What people call it.
    pub display: &'static str,
}

const fn ty(
    oid: i64,
    name: &'static str,
    length: i64,
    category: char,
    array: i64,
    receive: (&'static str, i64),
    display: &'static str,
) -> TypeRow {
    TypeRow { oid, name, length, category, array, receive, display }
}

pub const ARRAY_RECEIVE: (&str, i64) = ("array_recv", 2400);
/// By this, too, clients know arrays.
pub const ARRAY_IN: (&str, i64) = ("array_in", 750);

pub const TYPES: &[TypeRow] = &[
    ty(16, "bool", 1, 'B', 1000, ("boolrecv", 2436), "boolean"),
    ty(17, "bytea", -1, 'U', 1001, ("bytearecv", 2412), "bytea"),
    ty(18, "char", 1, 'Z', 1002, ("charrecv", 2434), "\"char\""),
    ty(19, "name", 64, 'S', 1003, ("namerecv", 2422), "name"),
    ty(20, "int8", 8, 'N', 1016, ("int8recv", 2408), "bigint"),
    ty(21, "int2", 2, 'N', 1005, ("int2recv", 2404), "smallint"),
    ty(22, "int2vector", -1, 'A', 1006, ("int2vectorrecv", 2410), "int2vector"),
    ty(23, "int4", 4, 'N', 1007, ("int4recv", 2406), "integer"),
    ty(24, "regproc", 4, 'N', 1008, ("regprocrecv", 2444), "regproc"),
    ty(25, "text", -1, 'S', 1009, ("textrecv", 2414), "text"),
    ty(26, "oid", 4, 'N', 1028, ("oidrecv", 2418), "oid"),
    ty(27, "tid", 6, 'U', 1010, ("tidrecv", 2438), "tid"),
    ty(28, "xid", 4, 'U', 1011, ("xidrecv", 2440), "xid"),
    ty(29, "cid", 4, 'U', 1012, ("cidrecv", 2442), "cid"),
    ty(30, "oidvector", -1, 'A', 1013, ("oidvectorrecv", 2420), "oidvector"),
    ty(114, "json", -1, 'U', 199, ("json_recv", 323), "json"),
    ty(142, "xml", -1, 'U', 143, ("xml_recv", 2898), "xml"),
    ty(700, "float4", 4, 'N', 1021, ("float4recv", 2424), "real"),
    ty(701, "float8", 8, 'N', 1022, ("float8recv", 2426), "double precision"),
    ty(705, "unknown", -2, 'X', 0, ("unknownrecv", 2416), "unknown"),
    ty(790, "money", 8, 'N', 791, ("cash_recv", 2492), "money"),
    ty(1042, "bpchar", -1, 'S', 1014, ("bpcharrecv", 2430), "character"),
    ty(1043, "varchar", -1, 'S', 1015, ("varcharrecv", 2432), "character varying"),
    ty(1082, "date", 4, 'D', 1182, ("date_recv", 2468), "date"),
    ty(1083, "time", 8, 'D', 1183, ("time_recv", 2470), "time without time zone"),
    ty(1114, "timestamp", 8, 'D', 1115, ("timestamp_recv", 2474), "timestamp without time zone"),
    ty(1184, "timestamptz", 8, 'D', 1185, ("timestamptz_recv", 2476), "timestamp with time zone"),
    ty(1186, "interval", 16, 'T', 1187, ("interval_recv", 2478), "interval"),
    ty(1266, "timetz", 12, 'D', 1270, ("timetz_recv", 2472), "time with time zone"),
    ty(1700, "numeric", -1, 'N', 1231, ("numeric_recv", 2460), "numeric"),
    ty(2205, "regclass", 4, 'N', 2210, ("regclassrecv", 2452), "regclass"),
    ty(2206, "regtype", 4, 'N', 2211, ("regtyperecv", 2454), "regtype"),
    ty(2278, "void", 4, 'P', 0, ("void_recv", 3120), "void"),
    ty(2950, "uuid", 16, 'U', 2951, ("uuid_recv", 2961), "uuid"),
    ty(3802, "jsonb", -1, 'U', 3807, ("jsonb_recv", 3805), "jsonb"),
    ty(4089, "regnamespace", 4, 'N', 4090, ("regnamespacerecv", 4087), "regnamespace"),
    ty(4096, "regrole", 4, 'N', 4097, ("regrolerecv", 4094), "regrole"),
];

/// A column of a table of the project.
pub struct ColumnFacts {
    pub name: String,
    pub type_oid: i64,
    pub nullable: bool,
    pub comment: String,
}

/// A table of the project.
pub struct TableFacts {
    pub oid: i64,
    pub schema: &'static str,
    pub namespace: i64,
    pub name: String,
    pub comment: String,
    pub columns: Vec<ColumnFacts>,
}

/// Everything about one set of definitions.
pub struct Facts {
    pub tables: Vec<TableFacts>,
    /// Oids of the catalogue's own tables.
    pub own: BTreeMap<String, i64>,
    comments: BTreeMap<(i64, i64), String>,
}

impl Facts {
    pub fn new(placed: &[Placed], own: BTreeMap<String, i64>) -> Facts {
        let mut taken = BTreeSet::new();
        let tables: Vec<TableFacts> = placed.iter().map(|placed| table(placed, &mut taken)).collect();
        let mut comments = BTreeMap::new();
        for table in &tables {
            if !table.comment.is_empty() {
                comments.insert((table.oid, 0), table.comment.clone());
            }
            for (i, column) in table.columns.iter().enumerate().filter(|(_, column)| !column.comment.is_empty()) {
                comments.insert((table.oid, i as i64 + 1), column.comment.clone());
            }
        }
        Facts { tables, own, comments }
    }

    pub fn comment(&self, oid: i64, column: i64) -> Option<String> {
        self.comments.get(&(oid, column)).cloned()
    }

    pub fn comments(&self) -> impl Iterator<Item = (i64, i64, &str)> {
        self.comments.iter().map(|((oid, column), words)| (*oid, *column, words.as_str()))
    }

    /// What people call a type.
    pub fn display(&self, oid: i64) -> String {
        display(oid)
    }

    /// The oid that a name stands for.
    pub fn oid(&self, kind: &str, name: &str) -> Option<i64> {
        let parts = parts(name);
        let (schema, last) = match parts.as_slice() {
            [name] => (None, name.as_str()),
            [.., schema, name] => (Some(schema.as_str()), name.as_str()),
            [] => return None,
        };
        match kind {
            "regclass" => {
                let of_project = |schema: &str| self.tables.iter().find(|t| t.schema == schema && t.name == last).map(|t| t.oid);
                match schema {
                    Some("pg_catalog" | "information_schema") => self.own.get(last).copied(),
                    Some(schema) => of_project(schema),
                    None => SEARCH_PATH.iter().find_map(|schema| of_project(schema)).or_else(|| self.own.get(last).copied()),
                }
            }
            "regtype" => type_oid(last).or_else(|| TYPES.iter().find(|t| t.display == name).map(|t| t.oid)),
            "regnamespace" => namespaces().into_iter().find(|(_, known)| *known == last).map(|(oid, _)| oid),
            "regrole" => (last == OWNER).then_some(OWNER_OID),
            "regproc" | "regprocedure" => receivers().into_iter().find(|(_, known)| *known == last).map(|(oid, _)| oid),
            _ => None,
        }
    }

    /// The name of an oid.
    pub fn name(&self, kind: &str, oid: i64) -> String {
        let found = match kind {
            "regclass" => self
                .tables
                .iter()
                .find(|t| t.oid == oid)
                .map(|t| t.name.clone())
                .or_else(|| self.own.iter().find(|(_, known)| **known == oid).map(|(name, _)| name.clone())),
            "regtype" => return display(oid),
            "regnamespace" => namespaces().into_iter().find(|(known, _)| *known == oid).map(|(_, name)| name.to_owned()),
            "regrole" => (oid == OWNER_OID).then(|| OWNER.to_owned()),
            "regproc" | "regprocedure" => match oid {
                0 => Some("-".into()),
                _ => receivers().into_iter().find(|(known, _)| *known == oid).map(|(_, name)| name.to_owned()),
            },
            _ => None,
        };
        found.unwrap_or_else(|| oid.to_string())
    }
}

pub fn display(oid: i64) -> String {
    let of = |t: &TypeRow| {
        (t.oid == oid).then(|| t.display.to_owned()).or_else(|| (t.array == oid && oid != 0).then(|| format!("{}[]", t.display)))
    };
    TYPES.iter().find_map(of).unwrap_or_else(|| "???".into())
}

/// Functions that read types, with their oids.
pub fn receivers() -> Vec<(i64, &'static str)> {
    TYPES.iter().map(|t| t.receive).chain([ARRAY_RECEIVE, ARRAY_IN]).map(|(name, oid)| (oid, name)).collect()
}

pub fn namespaces() -> Vec<(i64, &'static str)> {
    [(PG_CATALOG, "pg_catalog"), (INFORMATION_SCHEMA, "information_schema")].into_iter().chain(SCHEMAS).collect()
}

fn type_oid(name: &str) -> Option<i64> {
    TYPES.iter().find_map(|t| match name.strip_prefix('_') {
        Some(element) => (t.name == element && t.array != 0).then_some(t.array),
        None => (t.name == name).then_some(t.oid),
    })
}

/// The parts of a name as PostgreSQL reads them.
pub fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for x in name.trim().chars() {
        match x {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            x => {
                if let Some(last) = parts.last_mut() {
                    last.extend(if quoted { vec![x] } else { x.to_lowercase().collect() });
                }
            }
        }
    }
    parts
}

fn table(placed: &Placed, taken: &mut BTreeSet<i64>) -> TableFacts {
    let schema: &SchemaRef = placed.table.schema();
    let comment = |words: &std::collections::HashMap<String, String>| words.get(COMMENT).cloned().unwrap_or_default();
    let columns = schema
        .fields()
        .iter()
        .map(|field| ColumnFacts {
            name: field.name().clone(),
            type_oid: i64::from(oid_of(field.data_type())),
            nullable: field.is_nullable(),
            comment: comment(field.metadata()),
        })
        .collect();
    let namespace = SCHEMAS.iter().find(|(_, schema)| *schema == placed.schema).map_or(PUBLIC, |(oid, _)| *oid);
    let oid = oid(placed.schema, &placed.name, taken);
    TableFacts { oid, schema: placed.schema, namespace, name: placed.name.clone(), comment: comment(schema.metadata()), columns }
}

fn oid_of(data_type: &DataType) -> u32 {
    pg_type(data_type).oid()
}

/// An oid that the table keeps over changes of definitions, as long as nothing else takes it first.
fn oid(schema: &str, name: &str, taken: &mut BTreeSet<i64>) -> i64 {
    let hash = schema
        .bytes()
        .chain([b'.'])
        .chain(name.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut oid = FIRST + (hash % (1 << 30)) as i64;
    while !taken.insert(oid) {
        oid += 1;
    }
    oid
}
