"""Asks a server of Arrow Flight SQL what its clients ask, by ADBC and by the driver of JDBC: `flight.py HOST PORT USER KEY DATABASE TABLE [CHECK ...]`.

TABLE has the columns `time`, `outcome` and `event_offset`; WHOLE of the environment is how many rows it has and what their offsets add up to, as another protocol told it.
The server has CERTIFICATE, a file that vouches for it, and cannot prove itself by OTHER_CERTIFICATE. USER is the name of the key that KEY is. FLIGHT_JDBC is JDBC's driver.
Checks whose names begin with what LEFT_OUT has are not tried.
"""

import datetime
import os
import subprocess
import sys
import threading
import time

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as driver
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import AdbcStatusCode

HOST, PORT, USER, KEY, DATABASE, TABLE = sys.argv[1:7]
CERTIFICATE, OTHER_CERTIFICATE = os.environ["CERTIFICATE"], os.environ["OTHER_CERTIFICATE"]
WHOLE = tuple(int(n) for n in os.environ["WHOLE"].split())
SCHEMA, NAME = TABLE.split(".")
ENDLESS = "select count(*) from generate_series(1, 100000000000)"
OPTIONS = adbc_driver_flightsql.DatabaseOptions
CHECKS = {}


def check(f):
    CHECKS[f.__name__] = f
    return f


def connect(user=USER, key=KEY, root=CERTIFICATE, **more):
    login = {"username": user, "password": key} if key else {}
    with open(root) as f:
        how = {**login, OPTIONS.TLS_ROOT_CERTS.value: f.read(), OPTIONS.WITH_MAX_MSG_SIZE.value: str(16 << 20), **more}
    # Nothing is written, so there is nothing to commit.
    return driver.connect(f"grpc+tls://{HOST}:{PORT}", db_kwargs=how, autocommit=True)


def refused(status, words, f):
    try:
        f()
    except driver.Error as e:
        assert words in str(e) and e.status_code == status, f"{e.status_code}: {e}"
        return e
    raise AssertionError(f"no error that says `{words}`")


@check
def adbc_select():
    with connect() as c, c.cursor() as cursor:
        cursor.execute("select 1 as one, 'a' as a, null as n, true as t, 1.5::float8 as x, timestamp '2026-01-02 03:04:05' as at, date '2026-01-02' as day")
        day = datetime.date(2026, 1, 2)
        assert cursor.fetchone() == (1, "a", None, True, 1.5, datetime.datetime(2026, 1, 2, 3, 4, 5), day)
        assert [d[0] for d in cursor.description] == ["one", "a", "n", "t", "x", "at", "day"]
        cursor.execute(f"select * from {TABLE} limit 1000")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 1000 and table.schema.field("time").type == pa.timestamp("us", tz="UTC"), table.schema
        cursor.execute("select current_user, count(*) from information_schema.tables where table_name = 'decisions'")
        assert cursor.fetchall() == [(USER, 1)]


@check
def adbc_objects():
    with connect() as c:
        info = c.adbc_get_info()
        assert info["vendor_name"] == "Kilter", info
        assert c.adbc_get_table_types() == ["TABLE"]
        objects = c.adbc_get_objects(depth="all").read_all().to_pylist()
        assert [o["catalog_name"] for o in objects] == [DATABASE], objects
        schemas = {s["db_schema_name"]: s["db_schema_tables"] for s in objects[0]["catalog_db_schemas"]}
        assert {"public", "events", "features", "tracking"} <= set(schemas), list(schemas)
        (table,) = [t for t in schemas[SCHEMA] if t["table_name"] == NAME]
        columns = {column["column_name"]: column for column in table["table_columns"]}
        assert sorted(column["ordinal_position"] for column in columns.values()) == list(range(1, len(columns) + 1)), columns
        assert (columns["time"]["xdbc_type_name"], columns["event_offset"]["xdbc_type_name"]) == ("timestamptz", "int8"), columns["event_offset"]
        assert table["table_constraints"] == [], table["table_constraints"]
        one = c.adbc_get_objects(depth="tables", db_schema_filter="ev%", table_name_filter="pay%").read_all().to_pylist()
        found = [(s["db_schema_name"], [t["table_name"] for t in s["db_schema_tables"]]) for s in one[0]["catalog_db_schemas"]]
        assert found == [("events", ["payments"])], found


@check
def adbc_table_schema():
    with connect() as c, c.cursor() as cursor:
        told = c.adbc_get_table_schema(NAME, db_schema_filter=SCHEMA)
        assert told.field("time").type == pa.timestamp("us", tz="UTC") and told.field("event_offset").type == pa.int64(), told
        cursor.execute(f"select * from {TABLE} limit 1")
        assert cursor.fetch_arrow_table().schema.remove_metadata() == pa.schema([f.remove_metadata() for f in told])
        described = cursor.adbc_execute_schema(f"select outcome, count(*) as n from {TABLE} group by 1")
        assert [(f.name, f.type) for f in described] == [("outcome", pa.string()), ("n", pa.int64())], described
        refused(AdbcStatusCode.NOT_FOUND, "", lambda: c.adbc_get_table_schema("nothing_like_it", db_schema_filter=SCHEMA))


@check
def adbc_whole():
    with connect() as c, c.cursor() as cursor:
        cursor.execute(f"select time, outcome, event_offset from {TABLE}")
        parts = [(len(part), pc.sum(part["event_offset"]).as_py()) for part in cursor.fetch_record_batch()]
        assert tuple(map(sum, zip(*parts))) == WHOLE, f"{len(parts)} parts"
        cursor.execute(f"select count(*), sum(event_offset)::int8 from {TABLE}")
        assert cursor.fetchone() == WHOLE


@check
def adbc_parameters():
    with connect() as c, c.cursor() as cursor:
        cursor.execute("select ? + 1, ?, ?::float8, ?::bool, ?::text", (41, "x", 1.5, True, None))
        assert cursor.fetchone() == (42, "x", 1.5, True, None)
        cursor.execute(f"select count(*) from {TABLE} where event_offset >= $1 and outcome = $2", (10_000, "approve"))
        (few,) = cursor.fetchone()
        cursor.execute(f"select count(*) from {TABLE} where event_offset >= 10000 and outcome = 'approve'")
        assert cursor.fetchone() == (few,) and few > 0, few
        cursor.execute(f"select time from {TABLE} order by time limit 1")
        (first,) = cursor.fetchone()
        cursor.execute(f"select count(*) from {TABLE} where time <= ?", (first,))
        assert cursor.fetchone()[0] >= 1
        # Prepared once, asked again and again.
        for n in (1, 10, 100):
            cursor.execute(f"select event_offset from {TABLE} where event_offset >= ? order by 1 limit 1", (n,))
            assert cursor.fetchone()[0] >= n


@check
def adbc_errors():
    with connect() as c, c.cursor() as cursor:
        e = refused(AdbcStatusCode.NOT_FOUND, "did you mean `outcome`?", lambda: cursor.execute(f"select outcom from {TABLE}"))
        assert (b"sqlstate", b"42703") in [(bytes(name), bytes(value)) for name, value in e.details], e.details
        refused(AdbcStatusCode.INVALID_ARGUMENT, "syntax error", lambda: cursor.execute("selec"))
        refused(AdbcStatusCode.INVALID_ARGUMENT, "read-only", lambda: cursor.execute("delete from decisions"))
        refused(AdbcStatusCode.INVALID_ARGUMENT, "at most", lambda: cursor.execute(f"select '{'x' * (300 << 10)}'"))
        refused(AdbcStatusCode.INVALID_ARGUMENT, "read-only", lambda: cursor.executescript("insert into decisions values (1)"))
        cursor.execute("select 1")
        assert cursor.fetchone() == (1,)


@check
def adbc_cancel():
    with connect() as c, c.cursor() as cursor:
        begun = time.monotonic()
        threading.Timer(1.0, cursor.adbc_cancel).start()
        try:
            cursor.execute(ENDLESS)
            cursor.fetchall()
            raise AssertionError("it ended by itself")
        except driver.Error as e:
            assert e.status_code == AdbcStatusCode.CANCELLED, e
        assert time.monotonic() - begun < 20
        with c.cursor() as other:
            other.execute("select 1")
            assert other.fetchone() == (1,)


@check
def adbc_login():
    wrong = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
    refused(AdbcStatusCode.UNAUTHENTICATED, "password authentication failed", lambda: connect(key=wrong).close())

    def ask(c):
        with c, c.cursor() as cursor:
            cursor.execute("select current_user")
            return cursor.fetchone()

    # The user's name is nobody's business where the key opens.
    assert ask(connect(user="somebody")) == (USER,)
    # The key itself as a token, without a login before.
    token = {OPTIONS.AUTHORIZATION_HEADER.value: f"Bearer {KEY}"}
    assert ask(connect(key=None, **token)) == (USER,)
    refused(AdbcStatusCode.UNAUTHENTICATED, "", lambda: ask(connect(key=None, **{OPTIONS.AUTHORIZATION_HEADER.value: f"Bearer {wrong}"})))
    refused(AdbcStatusCode.UNAUTHENTICATED, "there is no key", lambda: ask(connect(key=None)))


@check
def adbc_tls():
    elsewhere = {OPTIONS.TLS_OVERRIDE_HOSTNAME.value: "elsewhere.example"}
    for root, more in [(OTHER_CERTIFICATE, {}), (CERTIFICATE, elsewhere)]:
        try:
            with connect(root=root, **more) as c, c.cursor() as cursor:
                cursor.execute("select 1")
            raise AssertionError(f"the server was not asked to prove itself by {root} {more}")
        except driver.Error as e:
            assert "certificate" in str(e), e


JDBC = """
import java.sql.*;
import java.util.Properties;
public class AskFlight {
  static Properties how(String user, String key, String root) {
    Properties how = new Properties();
    how.setProperty("user", user); how.setProperty("password", key);
    how.setProperty("useEncryption", "true"); how.setProperty("useSystemTrustStore", "false"); how.setProperty("tlsRootCerts", root);
    return how;
  }
  static void none(ResultSet r) throws Exception { try (r) { if (r.next()) throw new Exception("a row: " + r.getString(3)); } }
  static void fails(String url, Properties how, String words) throws Exception {
    try (Connection c = DriverManager.getConnection(url, how)) { c.createStatement().executeQuery("select 1"); } catch (SQLException e) {
      StringBuilder all = new StringBuilder();
      for (Throwable t = e; t != null; t = t.getCause()) all.append(t.getMessage()).append('\\n');
      if (!all.toString().contains(words)) throw e;
      return;
    }
    throw new Exception("no error that says " + words);
  }
  public static void main(String[] a) throws Exception {
    String url = "jdbc:arrow-flight-sql://" + a[0] + ":" + a[1];
    try (Connection c = DriverManager.getConnection(url, how(a[2], a[3], a[7]))) {
      DatabaseMetaData m = c.getMetaData();
      if (!m.getDatabaseProductName().equals("Kilter") || !m.isReadOnly() || m.supportsTransactions()) throw new Exception("facts");
      // What tools ask of every server before they show anything.
      m.getSQLKeywords(); m.getNumericFunctions(); m.getStringFunctions(); m.getSystemFunctions(); m.getTimeDateFunctions(); m.getIdentifierQuoteString();
      m.storesLowerCaseIdentifiers(); m.supportsMixedCaseQuotedIdentifiers(); m.getMaxStatementLength(); m.getMaxColumnsInSelect(); m.supportsGroupBy();
      m.supportsUnionAll(); m.supportsOuterJoins(); m.supportsCorrelatedSubqueries(); m.getDefaultTransactionIsolation(); m.nullsAreSortedHigh();
      m.supportsConvert(); m.supportsBatchUpdates(); m.getSearchStringEscape(); m.getCatalogTerm(); m.supportsANSI92EntryLevelSQL(); m.supportsSubqueriesInExists();
      int n = 0;
      try (ResultSet r = m.getTables(null, a[5], "%", new String[]{"TABLE"})) { while (r.next()) if (r.getString("TABLE_NAME").equals(a[6])) n++; }
      if (n != 1) throw new Exception("getTables: " + n);
      n = 0;
      try (ResultSet r = m.getColumns(null, a[5], a[6], "%")) {
        while (r.next()) {
          if (r.getString("COLUMN_NAME").equals("time") && r.getInt("DATA_TYPE") == Types.TIMESTAMP_WITH_TIMEZONE) n++;
          if (r.getString("COLUMN_NAME").equals("event_offset") && r.getInt("DATA_TYPE") == Types.BIGINT) n++;
        }
      }
      if (n != 2) throw new Exception("getColumns: " + n);
      n = 0;
      for (ResultSet r : new ResultSet[]{m.getSchemas(), m.getCatalogs(), m.getTableTypes()}) { try (r) { while (r.next()) n++; } }
      if (n != 4 + 1 + 1) throw new Exception("schemas, catalogs, kinds of tables: " + n);
      m.getTypeInfo().close();
      none(m.getPrimaryKeys(null, a[5], a[6])); none(m.getImportedKeys(null, a[5], a[6])); none(m.getExportedKeys(null, a[5], a[6]));
      none(m.getCrossReference(null, a[5], a[6], null, a[5], a[6]));
      long sum = 0;
      n = 0;
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("select time, outcome, event_offset from " + a[5] + "." + a[6])) {
        while (r.next()) { sum += r.getLong("event_offset"); if (r.getTimestamp("time") == null) throw new Exception("no time"); n++; }
      }
      System.out.println("whole " + n + " " + sum);
      try (PreparedStatement s = c.prepareStatement("select ?::int8 + 1, ?::text, count(*) from " + a[5] + "." + a[6] + " where event_offset < ?")) {
        for (int i = 1; i < 5; i++) {
          s.setLong(1, i); s.setString(2, "x" + i); s.setLong(3, 1000);
          try (ResultSet r = s.executeQuery()) { r.next(); if (r.getLong(1) != i + 1 || !r.getString(2).equals("x" + i) || r.getLong(3) < 1) throw new Exception("parameters " + i); }
        }
      }
      try (Statement s = c.createStatement()) {
        try { s.executeUpdate("delete from decisions"); throw new Exception("it wrote"); } catch (SQLException e) { if (!e.getMessage().contains("read-only")) throw e; }
        try { s.executeQuery("select outcom from decisions"); throw new Exception("no error"); } catch (SQLException e) { if (!e.getMessage().contains("did you mean `outcome`?")) throw e; }
      }
      try (Statement s = c.createStatement()) {
        long begun = System.nanoTime();
        Thread stop = new Thread(() -> { try { Thread.sleep(1000); s.cancel(); } catch (Exception e) { throw new RuntimeException(e); } });
        stop.start();
        try { ResultSet r = s.executeQuery(a[8]); while (r.next()); throw new Exception("it ended by itself"); } catch (SQLException e) { System.out.println("canceled: " + e.getMessage()); }
        if (System.nanoTime() - begun > 20_000_000_000L) throw new Exception("it took its time");
        stop.join();
      }
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("select current_user")) { r.next(); if (!r.getString(1).equals(a[2])) throw new Exception("user"); }
    }
    Properties token = how("", "", a[7]);
    token.remove("user"); token.remove("password"); token.setProperty("token", a[3]);
    try (Connection c = DriverManager.getConnection(url, token); Statement s = c.createStatement(); ResultSet r = s.executeQuery("select 1")) { if (!r.next()) throw new Exception("token"); }
    fails(url, how(a[2], a[3] + "0", a[7]), "password authentication failed");
    fails(url, how(a[2], a[3], a[9]), "certification path");
    System.out.println("fine");
  }
}
"""


@check
def flight_jdbc():
    folder = os.environ.get("TMPDIR", "/tmp")
    with open(f"{folder}/AskFlight.java", "w") as f:
        f.write(JDBC)
    others = [HOST, PORT, USER, KEY, DATABASE, SCHEMA, NAME, CERTIFICATE, ENDLESS, OTHER_CERTIFICATE]
    command = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", os.environ["FLIGHT_JDBC"], f"{folder}/AskFlight.java", *others]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "fine" in done.stdout, (done.stdout + done.stderr)[-3000:]
    assert f"whole {WHOLE[0]} {WHOLE[1]}\n" in done.stdout, done.stdout


def main():
    left_out = tuple(os.environ.get("LEFT_OUT", "").split())
    chosen = sys.argv[7:] or [name for name in CHECKS if not name.startswith(left_out)]
    failed = 0
    for name in chosen:
        begun = time.time()
        try:
            CHECKS[name]()
            print(f"ok    flight: {name} ({time.time() - begun:.1f} s)", flush=True)
        except Exception as e:  # noqa: BLE001
            failed += 1
            print(f"FAIL  flight: {name}: {type(e).__name__}: {str(e)[:1500]}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} by Arrow Flight SQL")
    sys.exit(failed > 0)


main()
