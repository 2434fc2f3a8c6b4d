//! What clients ask about the server and its tables, as tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    GetCatalogsBuilder, GetDbSchemasBuilder, GetTablesBuilder, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Command, CommandGetTables, Nullable, Searchable, SqlInfo, SqlSupportedTransaction, XdbcDataType, XdbcDatetimeSubcode,
};
use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;

use super::columns;
use super::kept::Room;
use crate::catalogue::SCHEMAS;
use crate::command::BYTES;
use crate::encode::pg_type;
use crate::engine::COLUMNS;
use crate::error::{INTERNAL, Result, SqlError, UNSUPPORTED};
use crate::tables::COMMENT;
use crate::{Engine, Rights};

/// The only kind of table.
const TABLE: &str = "TABLE";
/// Prefix of what a column is said to be, in its metadata.
const SAID: &str = "ARROW:FLIGHT:SQL:";

fn failed(e: FlightError) -> SqlError {
    SqlError::new(INTERNAL, format!("the answer cannot be made: {e}"))
}

/// The answer to a command that asks about the server or its tables, for whoever has these rights.
///
/// # Errors
/// When it asks for something else.
pub async fn answer(engine: &Engine, rights: &Rights, command: Command) -> Result<RecordBatch> {
    let database = engine.database();
    match command {
        Command::CommandGetCatalogs(_) => {
            let mut catalogs = GetCatalogsBuilder::new();
            catalogs.append(database);
            catalogs.build().map_err(failed)
        }
        Command::CommandGetDbSchemas(asked) => {
            let mut schemas = GetDbSchemasBuilder::from(asked);
            SCHEMAS.iter().for_each(|(_, schema)| schemas.append(database, schema));
            schemas.build().map_err(failed)
        }
        Command::CommandGetTables(asked) => tables(engine, rights, asked).await,
        Command::CommandGetTableTypes(_) => {
            let schema = Schema::new(vec![Field::new("table_type", DataType::Utf8, false)]);
            let types = StringArray::from(vec![TABLE]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(types)]).map_err(|e| failed(e.into()))
        }
        Command::CommandGetSqlInfo(asked) => {
            let mut told = SqlInfoDataBuilder::new();
            about(&mut told);
            let told = told.build().map_err(failed)?;
            asked.into_builder(&told).build().map_err(failed)
        }
        Command::CommandGetXdbcTypeInfo(asked) => {
            let told = types().build().map_err(failed)?;
            asked.into_builder(&told).build().map_err(failed)
        }
        Command::CommandGetPrimaryKeys(_) => Ok(RecordBatch::new_empty(primary_keys())),
        Command::CommandGetExportedKeys(_) | Command::CommandGetImportedKeys(_) | Command::CommandGetCrossReference(_) => {
            Ok(RecordBatch::new_empty(foreign_keys()))
        }
        other => Err(SqlError::new(UNSUPPORTED, format!("nothing is known of {}", other.type_url()))),
    }
}

async fn tables(engine: &Engine, rights: &Rights, asked: CommandGetTables) -> Result<RecordBatch> {
    let (world, database) = (engine.world(rights).await?, engine.database());
    let mut tables = GetTablesBuilder::from(asked);
    for (schema, name, columns) in world.tables() {
        tables.append(database, schema, name, TABLE, &described(columns, database, schema, name)).map_err(failed)?;
    }
    tables.build().map_err(failed)
}

/// A table's columns with what the drivers of JDBC and ODBC read of them.
fn described(columns: &Schema, database: &str, schema: &str, table: &str) -> Schema {
    let told = columns::told(columns);
    let field = |field: &FieldRef| {
        let mut said = field.metadata().clone();
        let comment = said.get(COMMENT).cloned().unwrap_or_default();
        let type_name = pg_type(field.data_type()).name().to_owned();
        let yes = || "1".to_owned();
        let facts = [
            ("CATALOG_NAME", database.to_owned()),
            ("SCHEMA_NAME", schema.to_owned()),
            ("TABLE_NAME", table.to_owned()),
            ("TYPE_NAME", type_name),
            ("IS_READ_ONLY", yes()),
            ("IS_SEARCHABLE", yes()),
            ("IS_CASE_SENSITIVE", yes()),
            ("REMARKS", comment),
        ];
        said.extend(facts.map(|(name, fact)| (format!("{SAID}{name}"), fact)));
        field.as_ref().clone().with_metadata(said)
    };
    Schema::new(told.fields().iter().map(field).collect::<Vec<_>>()).with_metadata(columns.metadata().clone())
}

/// Nothing is written, so there are no keys that could be broken, and none are told.
fn primary_keys() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("key_name", true),
    ]))
}

fn foreign_keys() -> SchemaRef {
    let mut fields = Vec::new();
    for side in ["pk", "fk"] {
        for (name, nullable) in [("catalog_name", true), ("db_schema_name", true), ("table_name", false), ("column_name", false)] {
            fields.push(Field::new(format!("{side}_{name}"), DataType::Utf8, nullable));
        }
    }
    fields.push(Field::new("key_sequence", DataType::Int32, false));
    fields.push(Field::new("fk_key_name", DataType::Utf8, true));
    fields.push(Field::new("pk_key_name", DataType::Utf8, true));
    fields.push(Field::new("update_rule", DataType::UInt8, false));
    fields.push(Field::new("delete_rule", DataType::UInt8, false));
    Arc::new(Schema::new(fields))
}

/// Every fact that the protocol has a number for: the driver of JDBC takes one that is missing for an error.
fn about(told: &mut SqlInfoDataBuilder) {
    use SqlInfo as I;
    let unused = i32::try_from(Room::default().unused.as_millis()).unwrap_or(i32::MAX);
    for (fact, text) in [
        (I::FlightSqlServerName, "Kilter"),
        (I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION")),
        // Of the format, as its pages count it.
        (I::FlightSqlServerArrowVersion, "1.3"),
        (I::FlightSqlServerSubstraitMinVersion, ""),
        (I::FlightSqlServerSubstraitMaxVersion, ""),
        (I::SqlIdentifierQuoteChar, "\""),
        (I::SqlSearchStringEscape, "\\"),
        (I::SqlExtraNameCharacters, ""),
        (I::SqlSchemaTerm, "schema"),
        (I::SqlProcedureTerm, "procedure"),
        (I::SqlCatalogTerm, "database"),
    ] {
        told.append(fact, text);
    }
    let yes = [
        I::FlightSqlServerReadOnly,
        I::FlightSqlServerSql,
        I::FlightSqlServerCancel,
        I::SqlAllTablesAreSelectable,
        I::SqlSupportsColumnAliasing,
        I::SqlNullPlusNullIsNull,
        I::SqlSupportsTableCorrelationNames,
        I::SqlSupportsExpressionsInOrderBy,
        I::SqlSupportsOrderByUnrelated,
        I::SqlSupportsLikeEscapeClause,
        I::SqlCatalogAtStart,
        I::SqlCorrelatedSubqueriesSupported,
    ];
    yes.into_iter().for_each(|fact| told.append(fact, true));
    let no = [
        I::FlightSqlServerSubstrait,
        I::FlightSqlServerBulkIngestion,
        I::FlightSqlServerIngestTransactionsSupported,
        I::SqlDdlCatalog,
        I::SqlDdlSchema,
        I::SqlDdlTable,
        I::SqlSupportsDifferentTableCorrelationNames,
        I::SqlSupportsNonNullableColumns,
        I::SqlSupportsIntegrityEnhancementFacility,
        I::SqlSelectForUpdateSupported,
        I::SqlStoredProceduresSupported,
        I::SqlMaxRowSizeIncludesBlobs,
        I::SqlTransactionsSupported,
        I::SqlDataDefinitionCausesTransactionCommit,
        I::SqlDataDefinitionsInTransactionsIgnored,
        I::SqlBatchUpdatesSupported,
        I::SqlSavepointsSupported,
        I::SqlNamedParametersSupported,
        I::SqlLocatorsUpdateCopy,
        I::SqlStoredFunctionsUsingCallSyntaxSupported,
    ];
    no.into_iter().for_each(|fact| told.append(fact, false));
    for (fact, number) in [
        (I::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32),
        (I::FlightSqlServerStatementTimeout, unused),
        (I::FlightSqlServerTransactionTimeout, 0),
        // Names without quotes are in small letters, those in quotes as they are.
        (I::SqlIdentifierCase, 3),
        (I::SqlQuotedIdentifierCase, 0),
        // Null is above everything.
        (I::SqlNullOrdering, 0),
        // GROUP BY takes what is not selected, and more than is.
        (I::SqlSupportedGroupBy, 0b11),
        (I::SqlSupportedGrammar, 0b11),
        (I::SqlAnsi92SupportedLevel, 0b1),
        (I::SqlOuterJoinsSupportLevel, 2),
        (I::SqlSchemasSupportedActions, 0),
        (I::SqlCatalogsSupportedActions, 0),
        (I::SqlSupportedPositionedCommands, 0),
        (I::SqlSupportedSubqueries, 0b1111),
        (I::SqlSupportedUnions, 0b11),
        (I::SqlSupportedTransactionsIsolationLevels, 0),
        // Rows are read forward.
        (I::SqlSupportedResultSetTypes, 0b10),
        (I::SqlSupportedConcurrenciesForResultSetUnspecified, 0b1),
        (I::SqlSupportedConcurrenciesForResultSetForwardOnly, 0b10),
        (I::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0b1),
        (I::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0b1),
    ] {
        told.append(fact, number);
    }
    // 0: nobody knows of a bound.
    let bounds = [(I::SqlMaxColumnsInSelect, COLUMNS), (I::SqlMaxStatementLength, BYTES)];
    bounds.into_iter().for_each(|(fact, bound)| told.append(fact, bound as i64));
    for fact in [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
        I::SqlDefaultTransactionIsolation,
    ] {
        told.append(fact, 0_i64);
    }
    for (fact, names) in [
        (I::SqlKeywords, &["EXPLAIN", "FILTER", "ILIKE", "LIMIT", "OFFSET", "QUALIFY"][..]),
        (I::SqlNumericFunctions, &["abs", "ceil", "exp", "floor", "ln", "log", "mod", "power", "round", "sign", "sqrt", "trunc"][..]),
        (I::SqlStringFunctions, &["concat", "left", "length", "lower", "ltrim", "replace", "right", "rtrim", "substring", "upper"][..]),
        (I::SqlSystemFunctions, &["coalesce", "nullif"][..]),
        (I::SqlDatetimeFunctions, &["current_date", "date_part", "date_trunc", "extract", "now", "to_timestamp"][..]),
    ] {
        told.append(fact, names);
    }
    told.append(I::SqlSupportsConvert, BTreeMap::<i32, Vec<i32>>::new());
}

/// The types that columns have, as PostgreSQL calls them.
fn types() -> XdbcTypeInfoDataBuilder {
    use XdbcDataType as T;
    let mut types = XdbcTypeInfoDataBuilder::new();
    let quote = || Some("'".to_owned());
    for (name, data_type, size, is_quoted) in [
        ("bool", T::XdbcBit, 1, false),
        ("int2", T::XdbcSmallint, 5, false),
        ("int4", T::XdbcInteger, 10, false),
        ("int8", T::XdbcBigint, 19, false),
        ("float4", T::XdbcReal, 24, false),
        ("float8", T::XdbcDouble, 53, false),
        ("numeric", T::XdbcDecimal, 38, false),
        ("text", T::XdbcVarchar, i32::MAX, true),
        ("bytea", T::XdbcVarbinary, i32::MAX, true),
        ("date", T::XdbcDate, 10, true),
        ("time", T::XdbcTime, 15, true),
        ("timestamp", T::XdbcTimestamp, 26, true),
        ("timestamptz", T::XdbcTimestamp, 32, true),
        ("interval", T::XdbcInterval, 49, true),
    ] {
        let subcode = match data_type {
            // 1 stands for a date as well.
            T::XdbcDate => Some(XdbcDatetimeSubcode::XdbcSubcodeYear),
            T::XdbcTime => Some(XdbcDatetimeSubcode::XdbcSubcodeTime),
            T::XdbcTimestamp => Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
            _ => None,
        };
        let is_number = matches!(name, "int2" | "int4" | "int8" | "float4" | "float8" | "numeric");
        types.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type,
            column_size: Some(size),
            literal_prefix: is_quoted.then(quote).flatten(),
            literal_suffix: is_quoted.then(quote).flatten(),
            create_params: None,
            nullable: Nullable::NullabilityNullable,
            case_sensitive: name == "text",
            searchable: if name == "text" { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: is_number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: None,
            local_type_name: Some(name.into()),
            minimum_scale: None,
            maximum_scale: None,
            sql_data_type: if subcode.is_some() { T::XdbcDatetime } else { data_type },
            datetime_subcode: subcode,
            num_prec_radix: is_number.then_some(if name.starts_with("float") { 2 } else { 10 }),
            interval_precision: None,
        });
    }
    types
}
