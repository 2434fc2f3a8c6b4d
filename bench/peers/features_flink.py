"""PyFlink: Table API in SQL, so that the work is done in the JVM. OVER windows over event time: exact, and a row of features for each event.

One OVER window a query is what streaming mode allows, so there are three. Parallelism 1, state on the heap, no checkpoints.
Set b adds COUNT(DISTINCT merchant); there is no quantile over such a window.
"""

import sys

from pyflink.table import EnvironmentSettings, TableEnvironment

file, which = sys.argv[1:3]
env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
env.get_config().set("parallelism.default", "1").set("table.local-time-zone", "UTC")
env.execute_sql(f"""
    CREATE TABLE payments (
        account_id BIGINT, merchant STRING, amount DOUBLE, kind STRING, `at` TIMESTAMP_LTZ(3),
        WATERMARK FOR `at` AS `at` - INTERVAL '30' MINUTE
    ) WITH ('connector' = 'filesystem', 'path' = '{file}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601')""")
more = ", COUNT(DISTINCT merchant) OVER w" if which == "b" else ""
every = env.create_statement_set()
for name, length in (("h", "'1' HOUR"), ("d", "'1' DAY"), ("m", "'30' DAY(2)")):
    env.execute_sql(f"""
        CREATE TABLE features_{name} (
            account_id BIGINT, `at` TIMESTAMP_LTZ(3), n BIGINT, total DOUBLE, low DOUBLE, high DOUBLE, newest DOUBLE, cards BIGINT,
            card_total DOUBLE{", merchants BIGINT" if which == "b" else ""}
        ) WITH ('connector' = 'blackhole')""")
    every.add_insert_sql(f"""
        INSERT INTO features_{name}
        SELECT account_id, `at`, COUNT(*) OVER w, SUM(amount) OVER w, MIN(amount) OVER w, MAX(amount) OVER w, LAST_VALUE(amount) OVER w,
            COUNT(CASE WHEN kind = 'card' THEN 1 END) OVER w, SUM(CASE WHEN kind = 'card' THEN amount END) OVER w{more}
        FROM payments
        WINDOW w AS (PARTITION BY account_id ORDER BY `at` RANGE BETWEEN INTERVAL {length} PRECEDING AND CURRENT ROW)""")
every.execute().wait()
