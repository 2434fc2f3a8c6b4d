"""Asks a server of PostgreSQL's protocol what real clients ask, each with its own driver: `clients.py HOST PORT USER PASSWORD DATABASE TABLE [CHECK ...]`.

TABLE has a column `time` and at least 1000 rows. A driver that is not installed is said to be missing, and counts as not passed.
"""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
import time

HOST, PORT, USER, PASSWORD, DATABASE, TABLE = sys.argv[1:7]
URL = f"postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"
SCHEMA, NAME = TABLE.split(".")
CHECKS = {}


def check(f):
    CHECKS[f.__name__] = f
    return f


def psql(*commands):
    arguments = [a for c in commands for a in ("-c", c)]
    done = subprocess.run(
        ["psql", "-X", "-v", "ON_ERROR_STOP=1", URL, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, "PAGER": "cat"}
    )
    assert done.returncode == 0, done.stderr.strip()
    return done.stdout


@check
def psql_select():
    out = psql("select version()", f"select count(*) from {TABLE}", "show server_version", "select 1 as one, 'a' as a, null as n, true as t")
    assert "PostgreSQL" in out and "(1 row)" in out, out


@check
def psql_describe():
    for command in ["\\d", "\\dt+", f"\\d {TABLE}", f"\\d+ {TABLE}", "\\dn+", "\\dt *.*"]:
        assert psql(command).strip(), command
    assert "time" in psql(f"\\d {TABLE}")
    assert NAME in psql("\\dt+ *.*")


@check
def psql_others():
    for command in ["\\df", "\\dv", "\\di", "\\du", "\\l", "\\dT", "\\dx", "\\dp", "\\ds", "\\dy", "\\db", "\\dC", "\\do", "\\dO"]:
        psql(command)


@check
def psql_copy():
    assert psql(f"\\copy (select time from {TABLE} limit 5) to stdout csv header").count("\n") == 6


@check
def psycopg():
    import psycopg

    with psycopg.connect(URL) as c:
        n = c.execute(f"select count(*) from {TABLE}").fetchone()[0]
        assert n >= 1000, n
        row = c.execute("select %s::int8 + 1, %s::text, %s::float8, now()", (41, "x", 1.5)).fetchone()
        assert row[:3] == (42, "x", 1.5) and row[3].tzinfo, row
        for binary in (False, True):
            row = c.execute(f"select time from {TABLE} order by time limit 1", binary=binary).fetchone()
            assert row[0].tzinfo, row
        try:
            c.execute("insert into nowhere values (1)")
            raise AssertionError("it wrote")
        except psycopg.errors.ReadOnlySqlTransaction:
            c.rollback()
        try:
            c.execute("select nothing_like_it from " + TABLE)
            raise AssertionError("no error")
        except psycopg.errors.UndefinedColumn:
            c.rollback()
        try:
            c.execute("select * from nothing_like_it")
            raise AssertionError("no error")
        except psycopg.errors.UndefinedTable:
            c.rollback()
        assert c.execute("select 1").fetchone() == (1,)


@check
def psycopg_cursor():
    import psycopg

    with psycopg.connect(URL) as c, c.cursor(name="held") as cursor:
        cursor.itersize = 100
        cursor.execute(f"select * from {TABLE} limit 1000")
        assert sum(1 for _ in cursor) == 1000


@check
def psycopg_pipeline():
    import psycopg

    with psycopg.connect(URL) as c, c.pipeline():
        cursors = [c.execute("select %s::int4", (i,)) for i in range(20)]
        assert [x.fetchone()[0] for x in cursors] == list(range(20))


@check
def psycopg2():
    import psycopg2

    c = psycopg2.connect(URL)
    with c.cursor("held", withhold=True) as cursor:
        cursor.itersize = 100
        cursor.execute(f"select time from {TABLE} limit 500")
        assert len(list(cursor)) == 500
    c.close()


@check
def cancel():
    import psycopg

    with psycopg.connect(URL) as c:
        threading.Timer(1.0, c.cancel).start()
        begun = time.time()
        try:
            c.execute("select count(*) from generate_series(1, 100000000000)")
            raise AssertionError("it ended by itself")
        except psycopg.errors.QueryCanceled:
            assert time.time() - begun < 20
        c.rollback()
        c.execute("set statement_timeout = 500")
        try:
            c.execute("select count(*) from generate_series(1, 100000000000)")
            raise AssertionError("it ended by itself")
        except psycopg.errors.QueryCanceled:
            c.rollback()


@check
def asyncpg():
    import asyncpg as driver

    async def go():
        pool = await driver.create_pool(URL, min_size=1, max_size=2)
        async with pool.acquire() as c:
            assert await c.fetchval(f"select count(*) from {TABLE}") >= 1000
            assert await c.fetchval("select $1::int8 + 1", 41) == 42
            row = await c.fetchrow(f"select * from {TABLE} limit 1")
            assert row["time"].tzinfo
            assert await c.fetchval(f"select count(*) from {TABLE} where time > $1", row["time"]) >= 0
            async with c.transaction():
                n = 0
                async for _ in c.cursor(f"select * from {TABLE} limit 1000", prefetch=100):
                    n += 1
                assert n == 1000
            names = await c.fetch("select tablename from pg_tables where schemaname = any($1::text[])", [SCHEMA])
            assert NAME in [r["tablename"] for r in names]
        await pool.close()

    asyncio.run(go())


@check
def sqlalchemy():
    import sqlalchemy as sa

    engine = sa.create_engine(URL.replace("postgresql:", "postgresql+psycopg:"))
    look = sa.inspect(engine)
    assert SCHEMA in look.get_schema_names()
    assert NAME in look.get_table_names(schema=SCHEMA)
    columns = {c["name"]: c for c in look.get_columns(NAME, schema=SCHEMA)}
    assert isinstance(columns["time"]["type"], sa.DateTime) and columns["time"]["type"].timezone, columns["time"]
    look.get_pk_constraint(NAME, schema=SCHEMA), look.get_foreign_keys(NAME, schema=SCHEMA), look.get_indexes(NAME, schema=SCHEMA)
    look.get_view_names(schema=SCHEMA), look.get_unique_constraints(NAME, schema=SCHEMA), look.get_check_constraints(NAME, schema=SCHEMA)
    look.get_table_comment(NAME, schema=SCHEMA)
    table = sa.Table(NAME, sa.MetaData(), schema=SCHEMA, autoload_with=engine)
    with engine.connect() as c:
        assert len(c.execute(sa.select(table).limit(10)).all()) == 10


@check
def adbc():
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(URL) as c, c.cursor() as cursor:
        cursor.execute(f"select * from {TABLE} limit 1000")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 1000 and str(table.schema.field("time").type).startswith("timestamp"), table.schema
        c.adbc_get_objects(depth="columns").read_all()


@check
def odbc():
    import pyodbc

    driver = next(d for d in pyodbc.drivers() if "PostgreSQL" in d)
    c = pyodbc.connect(f"Driver={{{driver}}};Server={HOST};Port={PORT};Database={DATABASE};Uid={USER};Pwd={PASSWORD};UseDeclareFetch=1;Fetch=100")
    cursor = c.cursor()
    assert cursor.execute(f"select count(*) from {TABLE}").fetchone()[0] >= 1000
    assert len(cursor.execute(f"select * from {TABLE} limit 1000").fetchall()) == 1000
    assert NAME in [t.table_name for t in cursor.tables(schema=SCHEMA)]
    assert "time" in [t.column_name for t in cursor.columns(table=NAME, schema=SCHEMA)]


JDBC = """
import java.sql.*;
public class Ask {
  public static void main(String[] a) throws Exception {
    try (Connection c = DriverManager.getConnection("jdbc:postgresql://" + a[0] + ":" + a[1] + "/" + a[4], a[2], a[3])) {
      DatabaseMetaData m = c.getMetaData();
      int n = 0;
      try (ResultSet r = m.getTables(null, a[5], "%", new String[]{"TABLE", "VIEW"})) { while (r.next()) if (r.getString("TABLE_NAME").equals(a[6])) n++; }
      if (n != 1) throw new Exception("getTables: " + n);
      n = 0;
      try (ResultSet r = m.getColumns(null, a[5], a[6], "%")) { while (r.next()) if (r.getString("COLUMN_NAME").equals("time") && r.getInt("DATA_TYPE") == Types.TIMESTAMP) n++; }
      if (n != 1) throw new Exception("getColumns: " + n);
      for (ResultSet r : new ResultSet[]{m.getSchemas(), m.getCatalogs(), m.getTypeInfo(), m.getTableTypes(), m.getPrimaryKeys(null, a[5], a[6]), m.getImportedKeys(null, a[5], a[6]),
          m.getExportedKeys(null, a[5], a[6]), m.getIndexInfo(null, a[5], a[6], false, false), m.getFunctions(null, null, "%"), m.getProcedures(null, null, "%"),
          m.getTablePrivileges(null, a[5], a[6]), m.getBestRowIdentifier(null, a[5], a[6], 0, true)}) { while (r.next()); r.close(); }
      c.setAutoCommit(false); c.setReadOnly(true);
      n = 0;
      try (Statement s = c.createStatement()) { s.setFetchSize(100); try (ResultSet r = s.executeQuery("select * from " + a[5] + "." + a[6] + " limit 1000")) { while (r.next()) { r.getTimestamp("time"); n++; } } }
      if (n != 1000) throw new Exception("rows: " + n);
      for (int i = 0; i < 7; i++) try (PreparedStatement s = c.prepareStatement("select ?::int8 + 1, ?::text")) {
        s.setLong(1, i); s.setString(2, "x");
        try (ResultSet r = s.executeQuery()) { r.next(); if (r.getLong(1) != i + 1) throw new Exception("sum"); }
      }
      c.commit();
    }
    System.out.println("fine");
  }
}
"""


@check
def jdbc():
    jar = os.environ["PGJDBC"]
    folder = os.environ.get("TMPDIR", "/tmp")
    with open(f"{folder}/Ask.java", "w") as f:
        f.write(JDBC)
    command = ["java", "-cp", jar, f"{folder}/Ask.java", HOST, PORT, USER, PASSWORD, DATABASE, SCHEMA, NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "fine" in done.stdout, (done.stdout + done.stderr)[-1500:]


class Wire:
    """As much of the protocol as the recorded clients need."""

    def __init__(self):
        self.s = socket.create_connection((HOST, int(PORT)), 30)
        body = struct.pack("!i", 196608) + b"".join(f"{k}\0{v}\0".encode() for k, v in [("user", USER), ("database", DATABASE), ("client_encoding", "UTF8")]) + b"\0"
        self.s.sendall(struct.pack("!i", len(body) + 4) + body)
        for kind, body in self.until(b"Z"):
            if kind == b"R" and struct.unpack("!i", body[:4])[0] == 3:
                self.send(b"p", PASSWORD.encode() + b"\0")

    def send(self, kind, body=b""):
        self.s.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.s.recv(n - len(data))
            assert part, "the server hung up"
            data += part
        return data

    def until(self, last):
        while True:
            head = self.exactly(5)
            body = self.exactly(struct.unpack("!i", head[1:])[0] - 4)
            assert head[:1] != b"E", body.replace(b"\0", b" ").decode()
            yield head[:1], body
            if head[:1] == last:
                return

    def ask(self, sqls, binary=False):
        """Parse, Bind, Describe, Execute of each, one Sync: as Npgsql pipelines them."""
        for sql in sqls:
            self.send(b"P", b"\0" + sql.encode() + b"\0" + struct.pack("!h", 0))
            self.send(b"B", b"\0\0" + struct.pack("!hhhh", 0, 0, 1, int(binary)))
            self.send(b"D", b"P\0")
            self.send(b"E", b"\0" + struct.pack("!i", 0))
        self.send(b"S")
        tables, columns = [], None
        for kind, body in self.until(b"Z"):
            if kind == b"T":
                columns, at = [], 2
                for _ in range(struct.unpack("!h", body[:2])[0]):
                    end = body.index(b"\0", at)
                    columns.append((body[at:end].decode(), struct.unpack("!i", body[end + 7 : end + 11])[0]))
                    at = end + 19
                tables.append((columns, []))
            if kind == b"D":
                at, row = 2, []
                for _ in range(struct.unpack("!h", body[:2])[0]):
                    n = struct.unpack("!i", body[at : at + 4])[0]
                    row.append(None if n < 0 else body[at + 4 : at + 4 + n])
                    at += 4 + max(n, 0)
                tables[-1][1].append(row)
        return tables


# What Npgsql 4.0.17, which Power BI embeds, sends when it connects.
NPGSQL_TYPES = """
SELECT ns.nspname, typ_and_elem_type.*,
   CASE
       WHEN typtype IN ('b', 'e', 'p') THEN 0           -- First base types, enums, pseudo-types
       WHEN typtype = 'r' THEN 1                        -- Ranges after
       WHEN typtype = 'c' THEN 2                        -- Composites after
       WHEN typtype = 'd' AND elemtyptype <> 'a' THEN 3 -- Domains over non-arrays after
       WHEN typtype = 'a' THEN 4                        -- Arrays before
       WHEN typtype = 'd' AND elemtyptype = 'a' THEN 5  -- Domains over arrays last
    END AS ord
FROM (
    -- Arrays have typtype=b - this subquery identifies them by their typreceive and converts their typtype to a
    -- We first do this for the type (innerest-most subquery), and then for its element type
    SELECT
        typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind,
        elemtyp.oid AS elemtypoid, elemtyp.typname AS elemtypname, elemcls.relkind AS elemrelkind,
        CASE WHEN elemproc.proname='array_recv' THEN 'a' ELSE elemtyp.typtype END AS elemtyptype
    FROM (
        SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid,
            CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype,
            CASE
                WHEN proc.proname='array_recv' THEN typ.typelem
                WHEN typ.typtype='r' THEN rngsubtype
                WHEN typ.typtype='d' THEN typ.typbasetype
            END AS elemtypoid
        FROM pg_type AS typ
        LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
        LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive
        LEFT JOIN pg_range ON (pg_range.rngtypid = typ.oid)
    ) AS typ
    LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = elemtypoid
    LEFT JOIN pg_class AS elemcls ON (elemcls.oid = elemtyp.typrelid)
    LEFT JOIN pg_proc AS elemproc ON elemproc.oid = elemtyp.typreceive
) AS typ_and_elem_type
JOIN pg_namespace AS ns ON (ns.oid = typnamespace)
WHERE
    typtype IN ('b', 'r', 'e', 'd') OR -- Base, range, enum, domain
    (typtype = 'c' AND relkind='c') OR -- User-defined free-standing composites (not table composites) by default
    (typtype = 'p' AND typname IN ('record', 'void')) OR -- Some special supported pseudo-types
    (typtype = 'a' AND (  -- Array of...
        elemtyptype IN ('b', 'r', 'e', 'd') OR -- Array of base, range, enum, domain
        (elemtyptype = 'p' AND elemtypname IN ('record', 'void')) OR -- Arrays of special supported pseudo-types
        (elemtyptype = 'c' AND elemrelkind='c') -- Array of user-defined free-standing composites (not table composites) by default
    ))
ORDER BY ord
"""
NPGSQL_OLD_TYPES = """
SELECT ns.nspname, a.typname, a.oid, a.typrelid, a.typbasetype,
CASE WHEN pg_proc.proname='array_recv' THEN 'a' ELSE a.typtype END AS type,
CASE
  WHEN pg_proc.proname='array_recv' THEN a.typelem
  WHEN a.typtype='r' THEN rngsubtype
  ELSE 0
END AS elem,
CASE
  WHEN pg_proc.proname IN ('array_recv','oidvectorrecv') THEN 3    /* Arrays last */
  WHEN a.typtype='r' THEN 2                                        /* Ranges before */
  WHEN a.typtype='d' THEN 1                                        /* Domains before */
  ELSE 0                                                           /* Base types first */
END AS ord
FROM pg_type AS a
JOIN pg_namespace AS ns ON (ns.oid = a.typnamespace)
JOIN pg_proc ON pg_proc.oid = a.typreceive
LEFT OUTER JOIN pg_class AS cls ON (cls.oid = a.typrelid)
LEFT OUTER JOIN pg_type AS b ON (b.oid = a.typelem)
LEFT OUTER JOIN pg_class AS elemcls ON (elemcls.oid = b.typrelid)
LEFT OUTER JOIN pg_range ON (pg_range.rngtypid = a.oid)
WHERE
  a.typtype IN ('b', 'r', 'e', 'd') OR         /* Base, range, enum, domain */
  (a.typtype = 'c' AND cls.relkind='c') OR /* User-defined free-standing composites (not table composites) by default */
  (pg_proc.proname='array_recv' AND (
    b.typtype IN ('b', 'r', 'e', 'd') OR       /* Array of base, range, enum, domain */
    (b.typtype = 'p' AND b.typname IN ('record', 'void')) OR /* Arrays of special supported pseudo-types */
    (b.typtype = 'c' AND elemcls.relkind='c')  /* Array of user-defined free-standing composites (not table composites) */
  )) OR
  (a.typtype = 'p' AND a.typname IN ('record', 'void'))  /* Some special supported pseudo-types */
ORDER BY ord
"""
NPGSQL_FIELDS = """
SELECT typ.oid, att.attname, att.atttypid
FROM pg_type AS typ
JOIN pg_namespace AS ns ON (ns.oid = typ.typnamespace)
JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
JOIN pg_attribute AS att ON (att.attrelid = typ.typrelid)
WHERE
    (typ.typtype = 'c' AND cls.relkind='c') AND -- User-defined free-standing composites (not table composites) by default
  attnum > 0 AND     -- Don't load system attributes
  NOT attisdropped
ORDER BY typ.oid, att.attnum
"""
NPGSQL_ENUMS = """
SELECT pg_type.oid, enumlabel
FROM pg_enum
JOIN pg_type ON pg_type.oid=enumtypid
ORDER BY oid, enumsortorder
"""
NAVIGATOR = [
    """select TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE from INFORMATION_SCHEMA.tables
where TABLE_SCHEMA not in ('information_schema', 'pg_catalog') order by TABLE_SCHEMA, TABLE_NAME""",
    f"""select COLUMN_NAME, ORDINAL_POSITION, IS_NULLABLE, case when (data_type like '%unsigned%') then DATA_TYPE || ' unsigned' else DATA_TYPE end as DATA_TYPE
from INFORMATION_SCHEMA.columns where TABLE_SCHEMA = '{SCHEMA}' and TABLE_NAME = '{NAME}' order by TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION""",
    f"""select i.CONSTRAINT_SCHEMA || '_' || i.CONSTRAINT_NAME as INDEX_NAME, ii.COLUMN_NAME, ii.ORDINAL_POSITION,
case when i.CONSTRAINT_TYPE = 'PRIMARY KEY' then 'Y' else 'N' end as PRIMARY_KEY
from INFORMATION_SCHEMA.table_constraints i inner join INFORMATION_SCHEMA.key_column_usage ii on i.CONSTRAINT_SCHEMA = ii.CONSTRAINT_SCHEMA and
i.CONSTRAINT_NAME = ii.CONSTRAINT_NAME and i.TABLE_SCHEMA = ii.TABLE_SCHEMA and i.TABLE_NAME = ii.TABLE_NAME
where i.TABLE_SCHEMA = '{SCHEMA}' and i.TABLE_NAME = '{NAME}' and i.CONSTRAINT_TYPE in ('PRIMARY KEY', 'UNIQUE')
order by i.CONSTRAINT_SCHEMA || '_' || i.CONSTRAINT_NAME, ii.TABLE_SCHEMA, ii.TABLE_NAME, ii.ORDINAL_POSITION""",
    f"""select pkcol.COLUMN_NAME as PK_COLUMN_NAME, fkcol.TABLE_SCHEMA AS FK_TABLE_SCHEMA, fkcol.TABLE_NAME AS FK_TABLE_NAME,
fkcol.COLUMN_NAME as FK_COLUMN_NAME, fkcol.ORDINAL_POSITION as ORDINAL, fkcon.CONSTRAINT_SCHEMA || '_' || fkcol.TABLE_NAME || '_' || 'x' || '_' || fkcon.CONSTRAINT_NAME as FK_NAME
from (select distinct constraint_catalog, constraint_schema, unique_constraint_schema, constraint_name, unique_constraint_name from INFORMATION_SCHEMA.referential_constraints) fkcon
inner join INFORMATION_SCHEMA.key_column_usage fkcol on fkcon.CONSTRAINT_SCHEMA = fkcol.CONSTRAINT_SCHEMA and fkcon.CONSTRAINT_NAME = fkcol.CONSTRAINT_NAME
inner join INFORMATION_SCHEMA.key_column_usage pkcol on fkcon.UNIQUE_CONSTRAINT_SCHEMA = pkcol.CONSTRAINT_SCHEMA and fkcon.UNIQUE_CONSTRAINT_NAME = pkcol.CONSTRAINT_NAME
where pkcol.TABLE_SCHEMA = '{SCHEMA}' and pkcol.TABLE_NAME = '{NAME}' and pkcol.ORDINAL_POSITION = fkcol.ORDINAL_POSITION
order by FK_NAME, fkcol.ORDINAL_POSITION""",
    "select character_set_name from INFORMATION_SCHEMA.character_sets",
]


@check
def npgsql_connect():
    wire = Wire()
    types, fields, enums = wire.ask([NPGSQL_OLD_TYPES, NPGSQL_FIELDS, NPGSQL_ENUMS])
    rows = {r[1].decode(): r for r in types[1]}
    for name, oid in [("int8", 20), ("text", 25), ("timestamptz", 1184), ("float8", 701), ("name", 19), ("_text", 1009), ("varchar", 1043)]:
        assert int(rows[name][2]) == oid, name
    assert rows["_text"][5:7] == [b"a", b"25"], rows["_text"]
    assert [int(r[7]) for r in types[1]] == sorted(int(r[7]) for r in types[1])
    assert fields[1] == enums[1] == []
    (newer,) = wire.ask([NPGSQL_TYPES])
    assert len(newer[1]) > 40
    wire.ask(["DISCARD ALL"])
    wire.ask(["SELECT 1"])


@check
def powerbi_navigator():
    wire = Wire()
    for sql in NAVIGATOR[:3]:
        wire.ask([sql], binary=True)
    (tables,) = wire.ask([NAVIGATOR[0]], binary=True)
    assert [SCHEMA.encode(), NAME.encode(), b"BASE TABLE"] in tables[1], tables[1][:3]
    assert all(oid in (19, 25, 1043) for _, oid in tables[0]), tables[0]
    (columns,) = wire.ask([NAVIGATOR[1]], binary=True)
    assert b"time" in [r[0] for r in columns[1]]
    wire.ask([NAVIGATOR[3]], binary=True)
    (sets,) = wire.ask([NAVIGATOR[4]], binary=True)
    assert sets[1] == [[b"UTF8"]]


@check
def powerbi_directquery():
    wire = Wire()
    sql = f"""select "rows"."day" as "day", count(1) as "a0" from (
  select "_"."time", cast("_"."time" as date) as "day" from (
    select "$Table"."time" as "time" from "{SCHEMA}"."{NAME}" "$Table") "_" where not "_"."time" is null) "rows"
group by "day" order by "a0" desc limit 1000001"""
    (rows,) = wire.ask([sql], binary=True)
    assert rows[1] and rows[0][0] == ("day", 1082), rows[0]


def main():
    chosen = sys.argv[7:] or list(CHECKS)
    failed = 0
    for name in chosen:
        begun = time.time()
        try:
            CHECKS[name]()
            print(f"ok    {name} ({time.time() - begun:.1f} s)")
        except Exception as e:  # noqa: BLE001
            failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {str(e)[:600]}")
    print(f"{len(chosen) - failed} of {len(chosen)}")
    sys.exit(failed > 0)


main()
