"""Asks a server of PostgreSQL's protocol what real clients ask, each with its own driver: `clients.py HOST PORT USER PASSWORD DATABASE TABLE [CHECK ...]`.

TABLE has the columns `time` and `event_offset` and at least 1000 rows. A driver that is not installed is said to be missing, and counts as not passed; those that
LEFT_OUT of the environment names are not tried. With CERTIFICATE, a file that vouches for the server and is its certificate, all connections are encrypted and the
server is to prove itself, which it cannot by OTHER_CERTIFICATE. USER is the name of the key that PASSWORD is. PGJDBC is JDBC's driver.
"""

import asyncio
import functools
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

HOST, PORT, USER, PASSWORD, DATABASE, TABLE = sys.argv[1:7]
CERTIFICATE, OTHER_CERTIFICATE = os.environ.get("CERTIFICATE"), os.environ.get("OTHER_CERTIFICATE")
URL = f"postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"
# What libpq takes, and all that is made with it.
LIBPQ = URL + (f"?sslmode=verify-full&sslrootcert={CERTIFICATE}" if CERTIFICATE else "")
SCHEMA, NAME = TABLE.split(".")
# Would take hours.
ENDLESS = "select count(*) from generate_series(1, 100000000000)"
CHECKS = {}


def check(f):
    CHECKS[f.__name__] = f
    return f


def psql(*commands):
    arguments = [a for c in commands for a in ("-c", c)]
    done = subprocess.run(
        ["psql", "-X", "-v", "ON_ERROR_STOP=1", LIBPQ, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, "PAGER": "cat"}
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

    with psycopg.connect(LIBPQ) as c:
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

    with psycopg.connect(LIBPQ) as c, c.cursor(name="held") as cursor:
        cursor.itersize = 100
        cursor.execute(f"select * from {TABLE} limit 1000")
        assert sum(1 for _ in cursor) == 1000


@check
def psycopg_pipeline():
    import psycopg

    with psycopg.connect(LIBPQ) as c, c.pipeline():
        cursors = [c.execute("select %s::int4", (i,)) for i in range(20)]
        assert [x.fetchone()[0] for x in cursors] == list(range(20))


@check
def psycopg2():
    import psycopg2

    c = psycopg2.connect(LIBPQ)
    with c.cursor("held", withhold=True) as cursor:
        cursor.itersize = 100
        cursor.execute(f"select time from {TABLE} limit 500")
        assert len(list(cursor)) == 500
    c.close()


@check
def psycopg_cancel():
    import psycopg

    with psycopg.connect(LIBPQ) as c:
        for stop in (c.cancel, c.cancel_safe, None):
            if stop:
                threading.Timer(1.0, stop).start()
            else:
                c.execute("set statement_timeout = 500")
            try:
                c.execute(ENDLESS)
                raise AssertionError("it ended by itself")
            except psycopg.errors.QueryCanceled:
                c.rollback()
        assert c.execute("select 1").fetchone() == (1,)


@check
def psycopg2_cancel():
    import psycopg2

    c = psycopg2.connect(LIBPQ)
    threading.Timer(1.0, c.cancel).start()
    with c.cursor() as cursor:
        try:
            cursor.execute(ENDLESS)
            raise AssertionError("it ended by itself")
        except psycopg2.errors.QueryCanceled:
            c.rollback()
        cursor.execute("select 1")
    c.close()


@check
def psql_cancel():
    # Ctrl-C. psql then ends, as it does wherever it reads no terminal.
    child = subprocess.Popen(["psql", "-X", "-At", LIBPQ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdin.write(f"select 'begun';\n{ENDLESS};\n")
    child.stdin.flush()
    assert child.stdout.readline() == "begun\n"
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert "canceling statement" in errors, errors


@check
def asyncpg_cancel():
    import asyncpg as driver

    async def go():
        c = await connected(driver)
        try:
            await c.fetchval(ENDLESS, timeout=1.0)
            raise AssertionError("it ended by itself")
        except asyncio.TimeoutError:
            assert await c.fetchval("select 1") == 1
        await c.close()

    asyncio.run(go())


@check
def adbc_cancel():
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(LIBPQ) as c, c.cursor() as cursor:
        threading.Timer(1.0, cursor.adbc_cancel).start()
        try:
            cursor.execute(ENDLESS)
            cursor.fetchall()
            raise AssertionError("it ended by itself")
        except driver.Error:
            pass


async def connected(driver, **other):
    return await driver.connect(**{**with_asyncpg(), **other})


def with_asyncpg():
    return {"dsn": URL, "ssl": ssl.create_default_context(cafile=CERTIFICATE) if CERTIFICATE else False}


@check
def asyncpg():
    import asyncpg as driver

    async def go():
        pool = await driver.create_pool(**with_asyncpg(), min_size=1, max_size=2)
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

    # The second is what Superset is told to use.
    for dialect in ("psycopg", "psycopg2"):
        engine = sa.create_engine(LIBPQ.replace("postgresql:", f"postgresql+{dialect}:"))
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
            added_up(c.execution_options(yield_per=10_000).execute(sa.select(table.c.event_offset)))


@check
def adbc():
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(LIBPQ) as c, c.cursor() as cursor:
        cursor.execute(f"select * from {TABLE} limit 1000")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 1000 and str(table.schema.field("time").type).startswith("timestamp"), table.schema
        c.adbc_get_objects(depth="columns").read_all()


def by_odbc(fetch=100):
    import pyodbc

    driver = next(d for d in pyodbc.drivers() if "PostgreSQL" in d)
    how = f"SSLmode=verify-full;pqopt={{sslrootcert={CERTIFICATE}}};" if CERTIFICATE else ""
    return pyodbc.connect(f"Driver={{{driver}}};Server={HOST};Port={PORT};Database={DATABASE};Uid={USER};Pwd={PASSWORD};{how}UseDeclareFetch=1;Fetch={fetch}")


@check
def odbc():
    cursor = by_odbc().cursor()
    assert cursor.execute(f"select count(*) from {TABLE}").fetchone()[0] >= 1000
    assert len(cursor.execute(f"select * from {TABLE} limit 1000").fetchall()) == 1000
    assert NAME in [t.table_name for t in cursor.tables(schema=SCHEMA)]
    assert "time" in [t.column_name for t in cursor.columns(table=NAME, schema=SCHEMA)]


@check
def odbc_cancel():
    import pyodbc

    cursor = by_odbc().cursor()
    threading.Timer(1.0, cursor.cancel).start()
    try:
        cursor.execute(ENDLESS).fetchall()
        raise AssertionError("it ended by itself")
    except pyodbc.Error as e:
        assert "cancel" in str(e).lower(), e


JDBC = """
import java.sql.*;
import java.util.Properties;
public class Ask {
  public static void main(String[] a) throws Exception {
    Properties how = new Properties();
    how.setProperty("user", a[2]);
    how.setProperty("password", a[3]);
    if (!a[7].isEmpty()) { how.setProperty("sslmode", "verify-full"); how.setProperty("sslrootcert", a[7]); }
    String url = "jdbc:postgresql://" + a[0] + ":" + a[1] + "/" + a[4];
    try (Connection c = DriverManager.getConnection(url, how)) {
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
      long sum = 0;
      n = 0;
      try (Statement s = c.createStatement()) {
        s.setFetchSize(10000);
        try (ResultSet r = s.executeQuery("select time, event_offset from " + a[5] + "." + a[6])) { while (r.next()) { sum += r.getLong("event_offset"); n++; } }
      }
      System.out.println("whole " + n + " " + sum);
      try (Statement s = c.createStatement()) {
        Thread stop = new Thread(() -> { try { Thread.sleep(1000); s.cancel(); } catch (Exception e) { throw new RuntimeException(e); } });
        stop.start();
        try { s.executeQuery(a[8]); throw new Exception("it ended by itself"); } catch (SQLException e) { if (!"57014".equals(e.getSQLState())) throw e; }
        stop.join();
        c.rollback();
        s.setQueryTimeout(1);
        try { s.executeQuery(a[8]); throw new Exception("it ended by itself"); } catch (SQLException e) { if (!"57014".equals(e.getSQLState())) throw e; }
        c.rollback();
      }
    }
    how.setProperty("password", a[3] + "0");
    try { DriverManager.getConnection(url, how); throw new Exception("a wrong key was let in"); } catch (SQLException e) { if (!"28P01".equals(e.getSQLState())) throw e; }
    if (!a[9].isEmpty()) {
      how.setProperty("password", a[3]);
      how.setProperty("sslrootcert", a[9]);
      try { DriverManager.getConnection(url, how); throw new Exception("the server was not asked to prove itself"); } catch (SQLException e) { if (!String.valueOf(e.getMessage()).contains("SSL error")) throw e; }
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
    others = [HOST, PORT, USER, PASSWORD, DATABASE, SCHEMA, NAME, CERTIFICATE or "", ENDLESS, OTHER_CERTIFICATE or ""]
    done = subprocess.run(["java", "-cp", jar, f"{folder}/Ask.java", *others], capture_output=True, text=True, timeout=300)
    assert "fine" in done.stdout, (done.stdout + done.stderr)[-1500:]
    rows, total = whole()
    assert f"whole {rows} {total}\n" in done.stdout, done.stdout


@functools.cache
def whole():
    """How many rows the table has, and the sum of their offsets, by the server's own count."""
    import psycopg

    with psycopg.connect(LIBPQ) as c:
        rows, total = c.execute(f"select count(*), sum(event_offset) from {TABLE}").fetchone()
        return rows, int(total)


def added_up(rows):
    count = total = 0
    for row in rows:
        count += 1
        total += row[-1]
    assert (count, total) == whole(), f"{count} rows that add up to {total}, of {whole()}"


ALL_ROWS = f"select time, outcome, event_offset from {TABLE}"


@check
def psql_whole():
    command = ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-v", "FETCH_COUNT=10000", LIBPQ, "-c", ALL_ROWS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        added_up([int(line.rsplit("|", 1)[1])] for line in child.stdout)
    assert child.returncode == 0


@check
def psql_copy_whole():
    command = ["psql", "-X", "-v", "ON_ERROR_STOP=1", LIBPQ, "-c", f"\\copy ({ALL_ROWS}) to stdout csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        added_up([int(line.rsplit(",", 1)[1])] for line in child.stdout)
    assert child.returncode == 0


@check
def psycopg_whole():
    import psycopg

    for binary in (False, True):
        with psycopg.connect(LIBPQ) as c, psycopg.ServerCursor(c, "held") as cursor:
            cursor.itersize = 10_000
            added_up(cursor.execute(ALL_ROWS, binary=binary))


@check
def psycopg2_whole():
    import psycopg2

    c = psycopg2.connect(LIBPQ)
    with c.cursor("held") as cursor:
        cursor.itersize = 10_000
        cursor.execute(ALL_ROWS)
        added_up(cursor)
    c.close()


@check
def asyncpg_whole():
    import asyncpg as driver

    async def go():
        c = await connected(driver)
        async with c.transaction():
            added_up([row async for row in c.cursor(ALL_ROWS, prefetch=10_000)])
        await c.close()

    asyncio.run(go())


@check
def odbc_whole():
    cursor = by_odbc(10_000).cursor().execute(ALL_ROWS)
    added_up(row for part in iter(lambda: cursor.fetchmany(10_000), []) for row in part)


@check
def adbc_whole():
    import adbc_driver_postgresql.dbapi as driver
    import pyarrow.compute as pc

    with driver.connect(LIBPQ) as c, c.cursor() as cursor:
        cursor.execute(ALL_ROWS)
        parts = [(len(part), pc.sum(part["event_offset"]).as_py()) for part in cursor.fetch_record_batch()]
        assert tuple(map(sum, zip(*parts))) == whole(), len(parts)


@check
def login_scram():
    """The key is proved and not sent; and the server says no to whoever does not have it."""
    import asyncpg as driver
    import psycopg

    for binding in ("disable", "prefer"):
        with psycopg.connect(LIBPQ, channel_binding=binding, require_auth="scram-sha-256") as c:
            assert c.execute("select current_user").fetchone()
    # The server does not bind a login to its certificate, and does not say that it did.
    refused(psycopg.OperationalError, "channel binding", lambda: psycopg.connect(LIBPQ, channel_binding="require"))
    refused(psycopg.OperationalError, "password authentication failed", lambda: psycopg.connect(LIBPQ, password=PASSWORD + "0"))

    async def wrong(**how):
        try:
            await connected(driver, **how)
            raise AssertionError("a wrong key was let in")
        except driver.InvalidPasswordError as e:
            assert e.sqlstate == "28P01", e

    asyncio.run(wrong(password=PASSWORD[:-1] + ("0" if PASSWORD[-1] != "0" else "1")))
    asyncio.run(wrong(user="nobody", password="kilter_" + "0" * 64))


@check
def login_password():
    """Whoever is not called like the key sends it: over TLS, where there is a certificate."""
    import psycopg

    with psycopg.connect(LIBPQ, user="somebody", require_auth="password") as c:
        assert c.execute("select 1").fetchone() == (1,)


@check
def login_tls():
    import asyncpg as driver
    import psycopg

    assert CERTIFICATE and OTHER_CERTIFICATE, "CERTIFICATE and OTHER_CERTIFICATE name no files"
    for mode in ("require", "verify-ca", "verify-full"):
        with psycopg.connect(LIBPQ, sslmode=mode) as c:
            assert c.pgconn.ssl_in_use
        refused(psycopg.OperationalError, "certificate verify failed", lambda: psycopg.connect(LIBPQ, sslmode=mode, sslrootcert=OTHER_CERTIFICATE))
    # Named by its address it is the one that the certificate names, by another name it is not.
    refused(psycopg.OperationalError, "does not match host name", lambda: psycopg.connect(LIBPQ, host="elsewhere.example", hostaddr=HOST))

    async def stranger():
        try:
            await connected(driver, ssl=ssl.create_default_context(cafile=OTHER_CERTIFICATE))
            raise AssertionError("the server was not asked to prove itself")
        except ssl.SSLCertVerificationError:
            pass

    asyncio.run(stranger())
    done = subprocess.run(["psql", "-X", "-c", "\\conninfo", LIBPQ.replace("verify-full", "verify-ca")], capture_output=True, text=True, timeout=60)
    assert "SSL connection" in done.stdout, done.stdout + done.stderr


def refused(kind, words, f):
    try:
        f().close()
    except kind as e:
        assert words in str(e), e
        return
    raise AssertionError(f"no error that says `{words}`")


class Wire:
    """As much of the protocol as the recorded clients need."""

    def __init__(self):
        self.s = socket.create_connection((HOST, int(PORT)), 30)
        # Not called like the key, so that the key is asked for and no proof of it. It may cross from this machine as it is.
        body = struct.pack("!i", 196608) + b"".join(f"{k}\0{v}\0".encode() for k, v in [("user", "wire"), ("database", DATABASE), ("client_encoding", "UTF8")]) + b"\0"
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
        return self.tables()

    def simple(self, sql):
        """As a tool with one statement in a text: the rows, as texts."""
        self.send(b"Q", sql.encode() + b"\0")
        return [row for _, rows in self.tables() for row in rows]

    def tables(self):
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


# What the tools that draw and browse ask before they show anything, by the kinds of question that they put.
GRAFANA = {
    "version": ("select current_setting('server_version_num')::int / 100 as version", lambda rows: int(rows[0][0]) >= 1000),
    "extension": ("select extversion from pg_extension where extname = 'timescaledb'", lambda rows: rows == []),
    "schemata": (
        "select schema_name as name from information_schema.schemata where schema_name not in ('information_schema', 'pg_catalog', 'pg_toast') order by schema_name",
        lambda rows: SCHEMA.encode() in [r[0] for r in rows],
    ),
    "tables": (
        """select case when quote_ident(t.table_schema) in (select case when trim(p[n]) = '"$user"' then user else trim(p[n]) end
  from generate_series(array_lower(string_to_array(current_setting('search_path'), ','), 1), array_upper(string_to_array(current_setting('search_path'), ','), 1)) as n,
    string_to_array(current_setting('search_path'), ',') p)
  then quote_ident(t.table_name) else quote_ident(t.table_schema) || '.' || quote_ident(t.table_name) end as "table"
from information_schema.tables t where quote_ident(t.table_schema) not in ('information_schema', 'pg_catalog') order by 1""",
        lambda rows: NAME.encode() in [r[0] for r in rows] or TABLE.encode() in [r[0] for r in rows],
    ),
    "columns": (
        f"""select quote_ident(column_name) as "column", data_type as "type" from information_schema.columns
where case when array_length(parse_ident('{TABLE}'), 1) = 2
  then quote_ident(table_schema) = (parse_ident('{TABLE}'))[1] and quote_ident(table_name) = (parse_ident('{TABLE}'))[2]
  else quote_ident(table_name) = '{TABLE}' end""",
        lambda rows: [b"time", b"timestamp with time zone"] in rows,
    ),
    "series": (
        f"""select floor(extract(epoch from time) / 3600) * 3600 as "time", count(*) as n from {TABLE}
where time between '2000-01-01T00:00:00Z' and '2100-01-01T00:00:00.123Z' group by 1 order by 1""",
        lambda rows: rows and float(rows[0][0]) % 3600 == 0,
    ),
}
METABASE = {
    "isolation": ("show transaction isolation level", lambda rows: len(rows) == 1),
    "characteristics": ("set session characteristics as transaction isolation level read uncommitted", lambda rows: rows == []),
    "schemas": (
        """select nspname as "TABLE_SCHEM", current_database() as "TABLE_CATALOG" from pg_catalog.pg_namespace
where nspname <> 'pg_toast' and (nspname !~ '^pg_temp_' or nspname = (pg_catalog.current_schemas(true))[1]) order by 1""",
        lambda rows: [SCHEMA.encode(), DATABASE.encode()] in rows,
    ),
    "privileges": (
        """with rights as (select x.schemaname as schema, x.name as "table",
    pg_catalog.has_any_column_privilege(current_user, '"' || replace(x.schemaname, '"', '""') || '"."' || replace(x.name, '"', '""') || '"', 'select') as may_select,
    pg_catalog.has_table_privilege(current_user, '"' || replace(x.schemaname, '"', '""') || '"."' || replace(x.name, '"', '""') || '"', 'delete') as may_delete
  from (select schemaname, tablename as name from pg_catalog.pg_tables union select schemaname, viewname from pg_catalog.pg_views
    union select schemaname, matviewname from pg_catalog.pg_matviews) x
  where x.schemaname !~ '^pg_' and x.schemaname <> 'information_schema' and pg_catalog.has_schema_privilege(current_user, x.schemaname, 'usage'))
select r.* from rights r""",
        lambda rows: [SCHEMA.encode(), NAME.encode(), b"t", b"f"] in rows,
    ),
    "tables": (
        f"""select n.nspname as schema, c.relname as name, case c.relkind when 'r' then 'TABLE' when 'v' then 'VIEW' end as type, d.description, s.n_live_tup
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on c.relnamespace = n.oid
left join pg_catalog.pg_description d on c.oid = d.objoid and d.objsubid = 0 and d.classoid = 'pg_class'::regclass
left join pg_stat_user_tables s on n.nspname = s.schemaname and c.relname = s.relname
where c.relkind in ('r', 'p', 'v', 'f', 'm') and n.nspname in ('{SCHEMA}') order by 3, 1, 2""",
        lambda rows: [SCHEMA.encode(), NAME.encode(), b"TABLE"] in [r[:3] for r in rows],
    ),
    "fields": (
        f"""select c.column_name as name, c.udt_name as type, c.ordinal_position - 1 as position, c.is_nullable = 'YES' as optional,
  col_description(cast(cast(format('%I.%I', cast(c.table_schema as text), cast(c.table_name as text)) as regclass) as oid), c.ordinal_position) as words,
  pk.column_name is not null as key
from information_schema.columns c
left join (select tc.table_schema, tc.table_name, kc.column_name from information_schema.table_constraints tc
  join information_schema.key_column_usage kc on tc.constraint_name = kc.constraint_name and tc.table_schema = kc.table_schema and tc.table_name = kc.table_name
  where tc.constraint_type = 'PRIMARY KEY') pk on c.table_schema = pk.table_schema and c.table_name = pk.table_name and c.column_name = pk.column_name
where c.table_schema !~ '^information_schema|catalog_history|pg_' and c.table_schema in ('{SCHEMA}') order by c.table_schema, c.table_name, c.ordinal_position""",
        lambda rows: [b"time", b"timestamptz"] in [r[:2] for r in rows],
    ),
    "fingerprint": (
        f'select substring("{SCHEMA}"."{NAME}"."outcome", 1, 1234) as x, "{SCHEMA}"."{NAME}"."time" as t from "{SCHEMA}"."{NAME}" limit 10000',
        lambda rows: len(rows) >= 1000,
    ),
    "by day": (
        f"""select date_trunc('day', "{SCHEMA}"."{NAME}"."time") as "time", count(*) as "count" from "{SCHEMA}"."{NAME}"
group by date_trunc('day', "{SCHEMA}"."{NAME}"."time") order by date_trunc('day', "{SCHEMA}"."{NAME}"."time") asc""",
        lambda rows: len(rows) > 0,
    ),
}
DBEAVER = {
    "who": ("select current_schema(), session_user", lambda rows: rows[0][0] == b"public"),
    "database": (f"select d.oid, d.* from pg_catalog.pg_database d where datname = '{DATABASE}'", lambda rows: len(rows) == 1),
    "settings": ("select * from pg_catalog.pg_settings where name = 'standard_conforming_strings'", lambda rows: len(rows) == 1),
    "keywords": (
        "select string_agg(word, ',') from pg_catalog.pg_get_keywords() where word <> all ('{a,abs,select,zone}'::text[])", lambda rows: len(rows) == 1,
    ),
    "schemas": (
        """select n.oid, n.*, d.description from pg_catalog.pg_namespace n
left outer join pg_catalog.pg_description d on d.objoid = n.oid and d.objsubid = 0 and d.classoid = 'pg_namespace'::regclass order by nspname""",
        lambda rows: len(rows) >= 3,
    ),
    "types": (
        """select t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description from pg_catalog.pg_type t
left outer join pg_catalog.pg_type et on et.oid = t.typelem left outer join pg_catalog.pg_class c on c.oid = t.typrelid
left outer join pg_catalog.pg_description d on t.oid = d.objoid
where t.typname is not null and (c.relkind is null or c.relkind = 'c') and (et.typcategory is null or et.typcategory <> 'C')""",
        lambda rows: len(rows) > 20,
    ),
    "tables": (
        f"""select c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr, pg_catalog.pg_get_partkeydef(c.oid) as partition_key
from pg_catalog.pg_class c left outer join pg_catalog.pg_description d on d.objoid = c.oid and d.objsubid = 0 and d.classoid = 'pg_class'::regclass
where c.relnamespace = '{SCHEMA}'::regnamespace::oid and c.relkind not in ('i', 'I', 'c')""",
        lambda rows: len(rows) > 0,
    ),
    "columns": (
        f"""select c.relname, a.*, pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value, d.description, d.objid
from pg_catalog.pg_attribute a join pg_catalog.pg_class c on a.attrelid = c.oid
left outer join pg_catalog.pg_attrdef ad on a.attrelid = ad.adrelid and a.attnum = ad.adnum
left outer join (select objoid as objid, objsubid, description from pg_catalog.pg_description where classoid = 'pg_class'::regclass) d on c.oid = d.objid and a.attnum = d.objsubid
where not a.attisdropped and c.oid = '{TABLE}'::regclass order by a.attnum""",
        lambda rows: NAME.encode() == rows[0][0],
    ),
    "constraints": (
        """select c.oid, c.*, t.relname as tabrelname, rt.relnamespace as refnamespace, d.description, null as consrc_copy from pg_catalog.pg_constraint c
join pg_catalog.pg_class t on t.oid = c.conrelid left outer join pg_catalog.pg_class rt on rt.oid = c.confrelid
left outer join pg_catalog.pg_description d on d.objoid = c.oid and d.objsubid = 0 and d.classoid = 'pg_constraint'::regclass""",
        lambda rows: rows == [],
    ),
    "sizes": (
        f"""select c.oid, pg_catalog.pg_total_relation_size(c.oid) as total_rel_size, pg_catalog.pg_relation_size(c.oid) as rel_size
from pg_class c where c.relname = '{NAME}'""",
        lambda rows: len(rows) == 1,
    ),
}


def each_of(questions):
    wire, failures = Wire(), []
    for name, (sql, holds) in questions.items():
        try:
            rows = wire.simple(sql)
            if not holds(rows):
                failures.append(f"{name}: {rows[:3]}")
        except (AssertionError, OSError, LookupError) as e:
            failures.append(f"{name}: {e}")
            wire = Wire()
    assert not failures, "; ".join(failures)


@check
def grafana():
    each_of(GRAFANA)


@check
def metabase():
    each_of(METABASE)


@check
def dbeaver():
    each_of(DBEAVER)


def main():
    left_out = tuple(os.environ.get("LEFT_OUT", "").split())
    chosen = sys.argv[7:] or [name for name in CHECKS if not name.startswith(left_out)]
    failed = 0
    for name in chosen:
        begun = time.time()
        try:
            CHECKS[name]()
            print(f"ok    {name} ({time.time() - begun:.1f} s)", flush=True)
        except Exception as e:  # noqa: BLE001
            failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {str(e)[:600]}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)}")
    sys.exit(failed > 0)


main()
