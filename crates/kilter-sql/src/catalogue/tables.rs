//! The tables of `pg_catalog` and `information_schema`, and what stands in them.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, Result, params};

use super::facts::{
    ARRAY_IN, ARRAY_RECEIVE, DATABASE, Facts, INFORMATION_SCHEMA, OWNER, OWNER_OID, PG_CATALOG, PG_CLASS, SCHEMAS, TYPES, display,
    namespaces, receivers,
};
use crate::rights::Rights;
use crate::session::Session;

/// A table's name and its columns, each with its type.
type Spec = (&'static str, &'static str);

/// Names as PostgreSQL 16 has them, as far as clients were seen to ask for them. Most are empty: there are no indexes, no constraints and no triggers here.
const PG: &[Spec] = &[
    ("pg_namespace", "oid oid, nspname name, nspowner oid, nspacl _text"),
    (
        "pg_class",
        "oid oid, relname name, relnamespace oid, reltype oid, reloftype oid, relowner oid, relam oid, relfilenode oid, reltablespace oid, relpages int4, \
         reltuples float4, relallvisible int4, reltoastrelid oid, relhasindex bool, relisshared bool, relpersistence char, relkind char, relnatts int2, \
         relchecks int2, relhasrules bool, relhastriggers bool, relhassubclass bool, relrowsecurity bool, relforcerowsecurity bool, relispopulated bool, \
         relreplident char, relispartition bool, relrewrite oid, relfrozenxid xid, relminmxid xid, relacl _text, reloptions _text, relpartbound text, \
         relhasoids bool",
    ),
    (
        "pg_attribute",
        "attrelid oid, attname name, atttypid oid, attlen int2, attnum int2, attcacheoff int4, atttypmod int4, attndims int2, attbyval bool, attalign char, \
         attstorage char, attcompression char, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity char, attgenerated char, attisdropped bool, \
         attislocal bool, attinhcount int2, attcollation oid, attstattarget int2, attacl _text, attoptions _text, attfdwoptions _text, attmissingval text",
    ),
    (
        "pg_type",
        "oid oid, typname name, typnamespace oid, typowner oid, typlen int2, typbyval bool, typtype char, typcategory char, typispreferred bool, \
         typisdefined bool, typdelim char, typrelid oid, typsubscript regproc, typelem oid, typarray oid, typinput regproc, typoutput regproc, \
         typreceive regproc, typsend regproc, typmodin regproc, typmodout regproc, typanalyze regproc, typalign char, typstorage char, typnotnull bool, \
         typbasetype oid, typtypmod int4, typndims int4, typcollation oid, typdefaultbin text, typdefault text, typacl _text",
    ),
    (
        "pg_proc",
        "oid oid, proname name, pronamespace oid, proowner oid, prolang oid, procost float4, prorows float4, provariadic oid, prosupport regproc, \
         prokind char, prosecdef bool, proleakproof bool, proisstrict bool, proretset bool, provolatile char, proparallel char, pronargs int2, \
         pronargdefaults int2, prorettype oid, proargtypes oidvector, proallargtypes _oid, proargmodes _char, proargnames _text, proargdefaults text, \
         protrftypes _oid, prosrc text, probin text, prosqlbody text, proconfig _text, proacl _text, proisagg bool, proiswindow bool",
    ),
    ("pg_description", "objoid oid, classoid oid, objsubid int4, description text"),
    ("pg_shdescription", "objoid oid, classoid oid, description text"),
    ("pg_attrdef", "oid oid, adrelid oid, adnum int2, adbin text"),
    (
        "pg_index",
        "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool, indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, \
         indimmediate bool, indisclustered bool, indisvalid bool, indcheckxmin bool, indisready bool, indislive bool, indisreplident bool, \
         indkey int2vector, indcollation oidvector, indclass oidvector, indoption int2vector, indexprs text, indpred text",
    ),
    (
        "pg_constraint",
        "oid oid, conname name, connamespace oid, contype char, condeferrable bool, condeferred bool, convalidated bool, conrelid oid, contypid oid, \
         conindid oid, conparentid oid, confrelid oid, confupdtype char, confdeltype char, confmatchtype char, conislocal bool, coninhcount int2, \
         connoinherit bool, conkey _int2, confkey _int2, conpfeqop _oid, conppeqop _oid, conffeqop _oid, confdelsetcols _int2, conexclop _oid, conbin text",
    ),
    (
        "pg_collation",
        "oid oid, collname name, collnamespace oid, collowner oid, collprovider char, collisdeterministic bool, collencoding int4, collcollate text, \
         collctype text, colliculocale text, collicurules text, collversion text",
    ),
    ("pg_am", "oid oid, amname name, amhandler regproc, amtype char"),
    ("pg_inherits", "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool"),
    ("pg_policy", "oid oid, polname name, polrelid oid, polcmd char, polpermissive bool, polroles _oid, polqual text, polwithcheck text"),
    (
        "pg_publication",
        "oid oid, pubname name, pubowner oid, puballtables bool, pubinsert bool, pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool",
    ),
    ("pg_publication_rel", "oid oid, prpubid oid, prrelid oid, prqual text, prattrs int2vector"),
    ("pg_publication_namespace", "oid oid, pnpubid oid, pnnspid oid"),
    ("pg_publication_tables", "pubname name, schemaname name, tablename name, attnames _name, rowfilter text"),
    (
        "pg_statistic_ext",
        "oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, stxstattarget int4, stxkeys int2vector, stxkind _char, stxexprs text",
    ),
    (
        "pg_roles",
        "rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, \
         rolpassword text, rolvaliduntil timestamptz, rolbypassrls bool, rolconfig _text, oid oid",
    ),
    (
        "pg_authid",
        "oid oid, rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, \
         rolbypassrls bool, rolconnlimit int4, rolpassword text, rolvaliduntil timestamptz",
    ),
    (
        "pg_user",
        "usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, valuntil timestamptz, useconfig _text",
    ),
    ("pg_group", "groname name, grosysid oid, grolist _oid"),
    ("pg_auth_members", "oid oid, roleid oid, member oid, grantor oid, admin_option bool, inherit_option bool, set_option bool"),
    (
        "pg_database",
        "oid oid, datname name, datdba oid, encoding int4, datlocprovider char, datistemplate bool, datallowconn bool, datconnlimit int4, datfrozenxid xid, \
         datminmxid xid, dattablespace oid, datcollate text, datctype text, daticulocale text, daticurules text, datcollversion text, datacl _text",
    ),
    ("pg_tablespace", "oid oid, spcname name, spcowner oid, spcacl _text, spcoptions _text"),
    (
        "pg_settings",
        "name text, setting text, unit text, category text, short_desc text, extra_desc text, context text, vartype text, source text, min_val text, \
         max_val text, enumvals _text, boot_val text, reset_val text, sourcefile text, sourceline int4, pending_restart bool",
    ),
    (
        "pg_extension",
        "oid oid, extname name, extowner oid, extnamespace oid, extrelocatable bool, extversion text, extconfig _oid, extcondition _text",
    ),
    ("pg_available_extensions", "name name, default_version text, installed_version text, comment text"),
    ("pg_sequence", "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8, seqmax int8, seqmin int8, seqcache int8, seqcycle bool"),
    (
        "pg_sequences",
        "schemaname name, sequencename name, sequenceowner name, data_type regtype, start_value int8, min_value int8, max_value int8, increment_by int8, cycle bool, cache_size int8, last_value int8",
    ),
    (
        "pg_opclass",
        "oid oid, opcmethod oid, opcname name, opcnamespace oid, opcowner oid, opcfamily oid, opcintype oid, opcdefault bool, opckeytype oid",
    ),
    ("pg_opfamily", "oid oid, opfmethod oid, opfname name, opfnamespace oid, opfowner oid"),
    (
        "pg_operator",
        "oid oid, oprname name, oprnamespace oid, oprowner oid, oprkind char, oprcanmerge bool, oprcanhash bool, oprleft oid, oprright oid, oprresult oid, oprcom oid, oprnegate oid, oprcode regproc, oprrest regproc, oprjoin regproc",
    ),
    (
        "pg_trigger",
        "oid oid, tgrelid oid, tgparentid oid, tgname name, tgfoid oid, tgtype int2, tgenabled char, tgisinternal bool, tgconstrrelid oid, \
         tgconstrindid oid, tgconstraint oid, tgdeferrable bool, tginitdeferred bool, tgnargs int2, tgattr int2vector, tgargs text, tgqual text, \
         tgoldtable name, tgnewtable name",
    ),
    ("pg_rewrite", "oid oid, rulename name, ev_class oid, ev_type char, ev_enabled char, is_instead bool, ev_qual text, ev_action text"),
    ("pg_depend", "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, refobjsubid int4, deptype char"),
    ("pg_shdepend", "dbid oid, classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, deptype char"),
    ("pg_foreign_table", "ftrelid oid, ftserver oid, ftoptions _text"),
    ("pg_foreign_server", "oid oid, srvname name, srvowner oid, srvfdw oid, srvtype text, srvversion text, srvacl _text, srvoptions _text"),
    ("pg_foreign_data_wrapper", "oid oid, fdwname name, fdwowner oid, fdwhandler oid, fdwvalidator oid, fdwacl _text, fdwoptions _text"),
    (
        "pg_partitioned_table",
        "partrelid oid, partstrat char, partnatts int2, partdefid oid, partattrs int2vector, partclass oidvector, partcollation oidvector, partexprs text",
    ),
    (
        "pg_language",
        "oid oid, lanname name, lanowner oid, lanispl bool, lanpltrusted bool, lanplcallfoid oid, laninline oid, lanvalidator oid, lanacl _text",
    ),
    ("pg_aggregate", "aggfnoid regproc, aggkind char, aggnumdirectargs int2, aggtransfn regproc, aggfinalfn regproc"),
    ("pg_cast", "oid oid, castsource oid, casttarget oid, castfunc oid, castcontext char, castmethod char"),
    (
        "pg_conversion",
        "oid oid, conname name, connamespace oid, conowner oid, conforencoding int4, contoencoding int4, conproc regproc, condefault bool",
    ),
    (
        "pg_range",
        "rngtypid oid, rngsubtype oid, rngmultitypid oid, rngcollation oid, rngsubopc oid, rngcanonical regproc, rngsubdiff regproc",
    ),
    ("pg_enum", "oid oid, enumtypid oid, enumsortorder float4, enumlabel name"),
    ("pg_event_trigger", "oid oid, evtname name, evtevent name, evtowner oid, evtfoid oid, evtenabled char, evttags _text"),
    ("pg_init_privs", "objoid oid, classoid oid, objsubid int4, privtype char, initprivs _text"),
    ("pg_default_acl", "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype char, defaclacl _text"),
    ("pg_seclabel", "objoid oid, classoid oid, objsubid int4, provider text, label text"),
    ("pg_subscription", "oid oid, subdbid oid, subname name, subowner oid, subenabled bool"),
    ("pg_ts_dict", "oid oid, dictname name, dictnamespace oid, dictowner oid, dicttemplate oid, dictinitoption text"),
    (
        "pg_ts_parser",
        "oid oid, prsname name, prsnamespace oid, prsstart regproc, prstoken regproc, prsend regproc, prsheadline regproc, prslextype regproc",
    ),
    ("pg_ts_template", "oid oid, tmplname name, tmplnamespace oid, tmplinit regproc, tmpllexize regproc"),
    ("pg_db_role_setting", "setdatabase oid, setrole oid, setconfig _text"),
    ("pg_user_mappings", "umid oid, srvid oid, srvname name, umuser oid, usename name, umoptions _text"),
    ("pg_ts_config", "oid oid, cfgname name, cfgnamespace oid, cfgowner oid, cfgparser oid"),
    (
        "pg_tables",
        "schemaname name, tablename name, tableowner name, tablespace name, hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool",
    ),
    ("pg_views", "schemaname name, viewname name, viewowner name, definition text"),
    (
        "pg_matviews",
        "schemaname name, matviewname name, matviewowner name, tablespace name, hasindexes bool, ispopulated bool, definition text",
    ),
    ("pg_indexes", "schemaname name, tablename name, indexname name, tablespace name, indexdef text"),
    (
        "pg_stat_activity",
        "datid oid, datname name, pid int4, usesysid oid, usename name, application_name text, client_addr text, state text, query text",
    ),
    ("pg_stat_user_tables", "relid oid, schemaname name, relname name, seq_scan int8, n_live_tup int8, n_dead_tup int8"),
    ("pg_stat_all_tables", "relid oid, schemaname name, relname name, seq_scan int8, n_live_tup int8, n_dead_tup int8"),
    ("pg_statio_user_tables", "relid oid, schemaname name, relname name, heap_blks_read int8"),
    ("pg_stats", "schemaname name, tablename name, attname name, null_frac float4, n_distinct float4"),
    ("pg_locks", "locktype text, database oid, relation oid, pid int4, mode text, granted bool"),
    ("pg_prepared_statements", "name text, statement text, from_sql bool"),
    ("pg_cursors", "name text, statement text, is_holdable bool"),
    ("pg_timezone_names", "name text, abbrev text, utc_offset interval, is_dst bool"),
];

const INFORMATION: &[Spec] = &[
    (
        "schemata",
        "catalog_name name, schema_name name, schema_owner name, default_character_set_catalog name, default_character_set_schema name, default_character_set_name name, sql_path varchar",
    ),
    (
        "tables",
        "table_catalog name, table_schema name, table_name name, table_type varchar, self_referencing_column_name name, reference_generation varchar, \
         user_defined_type_catalog name, user_defined_type_schema name, user_defined_type_name name, is_insertable_into varchar, is_typed varchar, \
         commit_action varchar",
    ),
    (
        "columns",
        "table_catalog name, table_schema name, table_name name, column_name name, ordinal_position int4, column_default varchar, is_nullable varchar, \
         data_type varchar, character_maximum_length int4, character_octet_length int4, numeric_precision int4, numeric_precision_radix int4, \
         numeric_scale int4, datetime_precision int4, interval_type varchar, interval_precision int4, character_set_catalog name, \
         character_set_schema name, character_set_name name, collation_catalog name, collation_schema name, collation_name name, domain_catalog name, \
         domain_schema name, domain_name name, udt_catalog name, udt_schema name, udt_name name, scope_catalog name, scope_schema name, scope_name name, \
         maximum_cardinality int4, dtd_identifier name, is_self_referencing varchar, is_identity varchar, identity_generation varchar, \
         identity_start varchar, identity_increment varchar, identity_maximum varchar, identity_minimum varchar, identity_cycle varchar, \
         is_generated varchar, generation_expression varchar, is_updatable varchar",
    ),
    (
        "views",
        "table_catalog name, table_schema name, table_name name, view_definition varchar, check_option varchar, is_updatable varchar, is_insertable_into varchar",
    ),
    (
        "key_column_usage",
        "constraint_catalog name, constraint_schema name, constraint_name name, table_catalog name, table_schema name, table_name name, column_name name, ordinal_position int4, position_in_unique_constraint int4",
    ),
    (
        "table_constraints",
        "constraint_catalog name, constraint_schema name, constraint_name name, table_catalog name, table_schema name, table_name name, constraint_type varchar, is_deferrable varchar, initially_deferred varchar, enforced varchar, nulls_distinct varchar",
    ),
    (
        "referential_constraints",
        "constraint_catalog name, constraint_schema name, constraint_name name, unique_constraint_catalog name, unique_constraint_schema name, unique_constraint_name name, match_option varchar, update_rule varchar, delete_rule varchar",
    ),
    (
        "constraint_column_usage",
        "table_catalog name, table_schema name, table_name name, column_name name, constraint_catalog name, constraint_schema name, constraint_name name",
    ),
    ("check_constraints", "constraint_catalog name, constraint_schema name, constraint_name name, check_clause varchar"),
    (
        "character_sets",
        "character_set_catalog name, character_set_schema name, character_set_name name, character_repertoire name, form_of_use name, default_collate_catalog name, default_collate_schema name, default_collate_name name",
    ),
    (
        "routines",
        "specific_catalog name, specific_schema name, specific_name name, routine_catalog name, routine_schema name, routine_name name, routine_type varchar, data_type varchar, type_udt_name name, routine_definition varchar, external_language varchar",
    ),
    (
        "parameters",
        "specific_catalog name, specific_schema name, specific_name name, ordinal_position int4, parameter_mode varchar, parameter_name name, data_type varchar, udt_name name",
    ),
    (
        "sequences",
        "sequence_catalog name, sequence_schema name, sequence_name name, data_type varchar, start_value varchar, minimum_value varchar, maximum_value varchar, increment varchar, cycle_option varchar",
    ),
    (
        "triggers",
        "trigger_catalog name, trigger_schema name, trigger_name name, event_manipulation varchar, event_object_schema name, event_object_table name, action_statement varchar, action_timing varchar",
    ),
    ("domains", "domain_catalog name, domain_schema name, domain_name name, data_type varchar, domain_default varchar, udt_name name"),
    (
        "element_types",
        "object_catalog name, object_schema name, object_name name, object_type varchar, collection_type_identifier name, data_type varchar, udt_name name",
    ),
    (
        "table_privileges",
        "grantor name, grantee name, table_catalog name, table_schema name, table_name name, privilege_type varchar, is_grantable varchar, with_hierarchy varchar",
    ),
    (
        "role_table_grants",
        "grantor name, grantee name, table_catalog name, table_schema name, table_name name, privilege_type varchar, is_grantable varchar, with_hierarchy varchar",
    ),
    (
        "column_privileges",
        "grantor name, grantee name, table_catalog name, table_schema name, table_name name, column_name name, privilege_type varchar, is_grantable varchar",
    ),
    ("enabled_roles", "role_name name"),
    ("applicable_roles", "grantee name, role_name name, is_grantable varchar"),
    ("information_schema_catalog_name", "catalog_name name"),
];

pub fn is_known(name: &str) -> bool {
    PG.iter().any(|(known, _)| *known == name)
}

pub fn is_information(name: &str) -> bool {
    INFORMATION.iter().any(|(known, _)| *known == name)
}

/// Oids of the catalogue's own tables, which clients look up by name.
pub fn oids() -> BTreeMap<String, i64> {
    let real = [("pg_class", PG_CLASS), ("pg_type", 1247), ("pg_proc", 1255), ("pg_attribute", 1249), ("pg_namespace", 2615)];
    let real = real.into_iter().chain([
        ("pg_database", 1262),
        ("pg_constraint", 2606),
        ("pg_trigger", 2620),
        ("pg_rewrite", 2618),
        ("pg_extension", 3079),
    ]);
    let mut oids: BTreeMap<String, i64> = real.map(|(name, oid)| (name.to_owned(), oid)).collect();
    for (i, (name, _)) in PG.iter().enumerate() {
        oids.entry((*name).to_owned()).or_insert(12_000 + i as i64);
    }
    for (i, (name, _)) in INFORMATION.iter().enumerate() {
        oids.insert((*name).to_owned(), 13_100 + i as i64);
    }
    oids
}

/// Types of all columns by name. Where a name stands in several tables its type is the same in all.
pub fn column_types() -> HashMap<String, &'static str> {
    PG.iter().chain(INFORMATION).flat_map(|(_, columns)| split(columns)).map(|(name, data_type)| (name.to_owned(), data_type)).collect()
}

fn split(columns: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    columns.split(", ").filter_map(|column| column.trim().split_once(' '))
}

/// Makes the tables and fills them.
pub fn fill(db: &Connection, facts: &Facts, database: &str) -> Result<()> {
    db.execute_batch("ATTACH ':memory:' AS information_schema")?;
    for (schema, specs) in [("main", PG), ("information_schema", INFORMATION)] {
        for (name, columns) in specs {
            // A name in quotes is the type as it stands there.
            let columns: Vec<String> = split(columns).map(|(name, data_type)| format!("\"{name}\" \"{data_type}\"")).collect();
            db.execute_batch(&format!("CREATE TABLE {schema}.\"{name}\" ({})", columns.join(", ")))?;
        }
    }
    for (oid, name) in namespaces() {
        db.execute("INSERT INTO pg_namespace VALUES (?1, ?2, ?3, NULL)", params![oid, name, OWNER_OID])?;
        db.execute(
            "INSERT INTO information_schema.schemata (catalog_name, schema_name, schema_owner) VALUES (?1, ?2, ?3)",
            params![database, name, OWNER],
        )?;
    }
    types(db)?;
    people(db, database)?;
    settings(db)?;
    db.execute("INSERT INTO pg_am VALUES (2, 'heap', 0, 't')", [])?;
    db.execute("INSERT INTO pg_language (oid, lanname, lanowner) VALUES (12, 'internal', 10)", [])?;
    db.execute(
        "INSERT INTO pg_collation (oid, collname, collnamespace, collowner, collprovider, collisdeterministic, collencoding) VALUES (100, 'default', 11, 10, 'd', 1, -1)",
        [],
    )?;
    db.execute("INSERT INTO pg_tablespace (oid, spcname, spcowner) VALUES (1663, 'pg_default', 10)", [])?;
    db.execute(
        "INSERT INTO information_schema.character_sets VALUES (NULL, NULL, 'UTF8', 'UCS', 'UTF8', ?1, 'pg_catalog', 'C')",
        params![database],
    )?;
    db.execute("INSERT INTO information_schema.information_schema_catalog_name VALUES (?1)", params![database])?;
    db.execute("INSERT INTO information_schema.enabled_roles VALUES (?1)", params![OWNER])?;
    own_tables(db, facts)?;
    project_tables(db, facts, database)?;
    for (oid, column, words) in facts.comments() {
        db.execute("INSERT INTO pg_description VALUES (?1, ?2, ?3, ?4)", params![oid, PG_CLASS, column, words])?;
    }
    Ok(())
}

fn types(db: &Connection) -> Result<()> {
    let mut insert = db.prepare(
        "INSERT INTO pg_type (oid, typname, typnamespace, typowner, typlen, typbyval, typtype, typcategory, typispreferred, typisdefined, typdelim, typrelid, \
         typsubscript, typelem, typarray, typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze, typalign, typstorage, typnotnull, \
         typbasetype, typtypmod, typndims, typcollation) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 1, ',', 0, 0, ?9, ?10, ?13, 0, ?11, ?11, 0, 0, 0, 'i', 'p', 0, 0, -1, 0, ?12)",
    )?;
    for t in TYPES {
        let kind = if t.category == 'P' || t.category == 'X' { "p" } else { "b" };
        let element = match t.name {
            "int2vector" => 21,
            "oidvector" => 26,
            _ => 0,
        };
        let collation = if t.category == 'S' { 100 } else { 0 };
        let by_value = (1..=8).contains(&t.length);
        insert.execute(params![
            t.oid,
            t.name,
            PG_CATALOG,
            OWNER_OID,
            t.length,
            by_value,
            kind,
            t.category.to_string(),
            element,
            t.array,
            t.receive.1,
            collation,
            0
        ])?;
        if t.array != 0 {
            let name = format!("_{}", t.name);
            insert.execute(params![
                t.array,
                name,
                PG_CATALOG,
                OWNER_OID,
                -1,
                false,
                "b",
                "A",
                t.oid,
                0,
                ARRAY_RECEIVE.1,
                collation,
                ARRAY_IN.1
            ])?;
        }
    }
    let mut insert = db.prepare(
        "INSERT INTO pg_proc (oid, proname, pronamespace, proowner, prolang, prokind, proretset, provolatile, proparallel, pronargs, prorettype, proargtypes, \
         prosrc, proisagg, proiswindow) VALUES (?1, ?2, ?3, ?4, 12, 'f', 0, 'i', 's', 1, 2281, '2281', ?2, 0, 0)",
    )?;
    for (oid, name) in receivers() {
        insert.execute(params![oid, name, PG_CATALOG, OWNER_OID])?;
    }
    Ok(())
}

fn people(db: &Connection, database: &str) -> Result<()> {
    db.execute("INSERT INTO pg_roles VALUES (?1, 0, 1, 0, 0, 1, 0, -1, '********', NULL, 0, NULL, ?2)", params![OWNER, OWNER_OID])?;
    db.execute("INSERT INTO pg_authid VALUES (?2, ?1, 0, 1, 0, 0, 1, 0, 0, -1, NULL, NULL)", params![OWNER, OWNER_OID])?;
    db.execute("INSERT INTO pg_user VALUES (?1, ?2, 0, 0, 0, 0, '********', NULL, NULL)", params![OWNER, OWNER_OID])?;
    db.execute(
        "INSERT INTO pg_database VALUES (?1, ?2, ?3, 6, 'c', 0, 1, -1, 0, 0, 1663, 'C', 'C', NULL, NULL, NULL, NULL)",
        params![DATABASE, database, OWNER_OID],
    )?;
    Ok(())
}

fn settings(db: &Connection) -> Result<()> {
    for (name, value) in Session::new("", "", Rights::Everything).settings() {
        db.execute(
            "INSERT INTO pg_settings (name, setting, context, vartype, source, boot_val, reset_val, pending_restart) \
             VALUES (?1, ?2, 'user', 'string', 'default', ?2, ?2, 0)",
            params![name, value],
        )?;
    }
    Ok(())
}

const CLASS: &str = "INSERT INTO pg_class (oid, relname, relnamespace, reltype, reloftype, relowner, relam, relfilenode, reltablespace, relpages, reltuples, \
     relallvisible, reltoastrelid, relhasindex, relisshared, relpersistence, relkind, relnatts, relchecks, relhasrules, relhastriggers, relhassubclass, \
     relrowsecurity, relforcerowsecurity, relispopulated, relreplident, relispartition, relrewrite, relhasoids) \
     VALUES (?1, ?2, ?3, 0, 0, ?4, 2, 0, 0, 0, -1, 0, 0, 0, 0, 'p', ?5, ?6, 0, 0, 0, 0, 0, 0, 1, 'n', 0, 0, 0)";

/// The catalogue tells of itself, without columns.
fn own_tables(db: &Connection, facts: &Facts) -> Result<()> {
    let mut insert = db.prepare(CLASS)?;
    for (name, oid) in &facts.own {
        let of_information = INFORMATION.iter().any(|(known, _)| known == name);
        let (namespace, kind) = if of_information { (INFORMATION_SCHEMA, "v") } else { (PG_CATALOG, "r") };
        insert.execute(params![oid, name, namespace, OWNER_OID, kind, 0])?;
    }
    Ok(())
}

fn project_tables(db: &Connection, facts: &Facts, database: &str) -> Result<()> {
    let mut class = db.prepare(CLASS)?;
    let mut attribute = db.prepare(
        "INSERT INTO pg_attribute (attrelid, attname, atttypid, attlen, attnum, attcacheoff, atttypmod, attndims, attbyval, attalign, attstorage, \
         attcompression, attnotnull, atthasdef, atthasmissing, attidentity, attgenerated, attisdropped, attislocal, attinhcount, attcollation, attstattarget) \
         VALUES (?1, ?2, ?3, ?4, ?5, -1, -1, 0, ?6, 'i', 'p', '', ?7, 0, 0, '', '', 0, 1, 0, ?8, -1)",
    )?;
    let mut column = db.prepare(
        "INSERT INTO information_schema.columns (table_catalog, table_schema, table_name, column_name, ordinal_position, is_nullable, data_type, \
         numeric_precision, numeric_precision_radix, numeric_scale, datetime_precision, udt_catalog, udt_schema, udt_name, dtd_identifier, \
         is_self_referencing, is_identity, identity_cycle, is_generated, is_updatable) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, 'pg_catalog', ?12, ?5, 'NO', 'NO', 'NO', 'NEVER', 'NO')",
    )?;
    for table in &facts.tables {
        debug_assert!(SCHEMAS.iter().any(|(oid, _)| *oid == table.namespace));
        class.execute(params![table.oid, table.name, table.namespace, OWNER_OID, "r", table.columns.len() as i64])?;
        db.execute("INSERT INTO pg_tables VALUES (?1, ?2, ?3, NULL, 0, 0, 0, 0)", params![table.schema, table.name, OWNER])?;
        db.execute(
            "INSERT INTO information_schema.tables (table_catalog, table_schema, table_name, table_type, is_insertable_into, is_typed) \
             VALUES (?1, ?2, ?3, 'BASE TABLE', 'NO', 'NO')",
            params![database, table.schema, table.name],
        )?;
        for grants in ["table_privileges", "role_table_grants"] {
            db.execute(
                &format!("INSERT INTO information_schema.{grants} VALUES (?1, ?1, ?2, ?3, ?4, 'SELECT', 'NO', 'YES')"),
                params![OWNER, database, table.schema, table.name],
            )?;
        }
        for (i, c) in table.columns.iter().enumerate() {
            let Some(t) = TYPES.iter().find(|t| t.oid == c.type_oid) else { continue };
            let place = i as i64 + 1;
            let collation = if t.category == 'S' { 100 } else { 0 };
            let by_value = (1..=8).contains(&t.length);
            attribute.execute(params![table.oid, c.name, t.oid, t.length, place, by_value, !c.nullable, collation])?;
            let (precision, radix, scale) = match t.name {
                "int2" => (Some(16), Some(2), Some(0)),
                "int4" => (Some(32), Some(2), Some(0)),
                "int8" => (Some(64), Some(2), Some(0)),
                "float4" => (Some(24), Some(2), None),
                "float8" => (Some(53), Some(2), None),
                _ => (None, None, None),
            };
            let time = (t.category == 'D' && t.name != "date").then_some(6);
            let nullable = if c.nullable { "YES" } else { "NO" };
            column.execute(params![
                database,
                table.schema,
                table.name,
                c.name,
                place,
                nullable,
                display(t.oid),
                precision,
                radix,
                scale,
                time,
                t.name
            ])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types are told by a column's name alone where SQLite cannot tell them.
    #[test]
    fn a_column_of_a_name_has_one_type() {
        let types = column_types();
        for (table, columns) in PG.iter().chain(INFORMATION) {
            for (name, data_type) in split(columns) {
                let same = types[name] == data_type;
                // Told by the column itself wherever it is asked for as it is.
                let known = ["grantor", "name", "data_type", "start_value"].contains(&name);
                assert!(same || known, "{table}.{name} is {data_type} here and {} elsewhere", types[name]);
            }
        }
    }
}
