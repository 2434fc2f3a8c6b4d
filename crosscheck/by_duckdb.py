"""The features by DuckDB: a range join and a group for each window."""

import duckdb

from windows import AGGREGATES, BY_EVENTS, CALENDAR, EXACT, SAWTOOTH, TUMBLING, WINDOWS, ZONE, column

RANK = "list_sort(list({x}) filter ({x} is not null))[cast(floor({p}::double * (count({x}) - 1)) as bigint) + 1]"
DAYS = "((epoch_us(e.t) - epoch_us(s.time)) / 86400e6)"

# By aggregate: the value, and the magnitude that an error may be in proportion to.
VALUES = {
    "n": ("count(e.seq)", "null"),
    "n_amount": ("count(e.amount)", "null"),
    "n_card": ("count(e.seq) filter (e.kind = 'card')", "null"),
    "sum_n": ("sum(e.n)::bigint", "null"),
    "mean_n": ("avg(e.n)", "avg(abs(e.n))"),
    "sum": ("sum(e.amount)", "sum(abs(e.amount))"),
    "sum_card": ("sum(e.amount) filter (e.kind = 'card' and e.n > 0)", "sum(abs(e.amount))"),
    "mean": ("avg(e.amount)", "avg(abs(e.amount))"),
    "low": ("min(e.amount)", "null"),
    "high": ("max(e.n)", "null"),
    "variance": ("var_samp(e.amount)", "sum(e.amount * e.amount)"),
    "stddev": ("stddev_samp(e.amount)", "sum(abs(e.amount))"),
    "skew": ("case when min(e.n) < max(e.n) then skewness(e.n) end", "1e3 * count(e.n)"),
    "kurtosis": ("case when min(e.n) < max(e.n) and count(e.n) > 3 then kurtosis(e.n) end", "1e3 * count(e.n)"),
    "first": ("arg_min(e.kind, row(e.t, e.seq)) filter (e.kind is not null)", "null"),
    "last": ("arg_max(e.amount, row(e.t, e.seq)) filter (e.amount is not null)", "null"),
    "first_at": ("epoch_us(min(e.t))", "null"),
    "last_at": ("epoch_us(max(e.t))", "null"),
    "idle": ("case when count(e.seq) > 0 then greatest(epoch_us(s.time) - epoch_us(max(e.t)), 0) / 1e6 end", "null"),
    "kinds": ("count(distinct e.kind)", "null"),
    "numbers": ("count(distinct e.n)", "null"),
    "quantile": (RANK.format(x="e.amount", p=0.9), "null"),
    "median": (RANK.format(x="e.n", p=0.5), "null"),
    "cheapest": ("arg_min(e.kind, row(e.amount, e.t, e.seq)) filter (e.kind is not null and e.amount is not null)", "null"),
    "dearest": ("arg_max(e.n, row(e.amount, -epoch_us(e.t), -e.seq)) filter (e.n is not null and e.amount is not null)", "null"),
    "top": ("coalesce(list_slice(list_reverse_sort(list(e.amount) filter (e.amount is not null)), 1, 3), [])", "null"),
    "newest": ("coalesce(list_reverse(list_slice(list(e.n order by e.t desc, e.seq desc) filter (e.n is not null), 1, 3)), [])", "null"),
    "bins": ("""[count(e.seq) filter (e.amount < 0), count(e.seq) filter (e.amount >= 0 and e.amount < 10),
        count(e.seq) filter (e.amount >= 10 and e.amount < 100), count(e.seq) filter (e.amount >= 100)]""", "null"),
    "share": ("avg((e.amount > 20)::int)", "null"),
    "trend": (f"case when min(e.t) filter (e.n is not null) < max(e.t) filter (e.n is not null) then regr_slope(e.n, {DAYS}) end",
              f"1e3 * sqrt(sum(e.n * e.n)) / nullif(sqrt(count(e.n) * var_pop({DAYS}) filter (e.n is not null)), 0)"),
    "gap": ("case when count(e.seq) > 1 then (epoch_us(max(e.t)) - epoch_us(min(e.t))) / 1e6 / (count(e.seq) - 1) end", "null"),
}


def features(folder, spine, arrived):
    """Name to values, equality and sizes, for the rows of `spine`; `arrived` is the condition for an event to be known at a row."""
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    con.sql(f"create table s as select * from '{folder}/{spine}'")
    con.sql(f"create table e as select * from '{folder}/events.parquet'")
    columns = {}
    for window in WINDOWS:
        joined = f"s left join e on e.account = s.account and {arrived} and {within(window)}"
        columns |= aggregated(con, joined, AGGREGATES, window)
    without = [name for name, (text, _) in AGGREGATES.items() if "where" not in text]
    for window in BY_EVENTS:
        members = last(arrived, 10) if window.startswith("last") else session(arrived)
        columns |= aggregated(con, f"s left join ({members}) e on e.row = s.row", without, window)
    return columns | decayed(con, arrived)


def aggregated(con, joined, names, window):
    wanted = ", ".join(f"{VALUES[name][0]} as v_{name}, {VALUES[name][1]} as s_{name}" for name in names)
    found = iter(columns_of(con.sql(f"select {wanted} from {joined} group by s.row, s.time order by s.row")))
    return {column(name, window): (next(found), AGGREGATES[name][1], next(found)) for name in names}


def columns_of(result):
    return list(zip(*result.fetchall()))


def within(window):
    t, q = "epoch_us(e.t)", "epoch_us(s.time)"
    if window in EXACT:
        return f"{t} between {q} - {EXACT[window]} and {q}"
    if window in SAWTOOTH:
        length, hop = SAWTOOTH[window]
        return f"{t} // {hop} between ({q} - {length}) // {hop} and {q} // {hop}"
    if window == "lifetime":
        return "true"
    previous, period = window.startswith("previous "), window.removeprefix("previous ")
    if period in TUMBLING:
        length, hop = TUMBLING[period]
        now, then, start = f"{q} // {length}", f"{t} // {length}", f"{q} // {length} * {length}"
        back = 1
    else:
        hop = CALENDAR[period]
        now, then = (f"date_trunc('{period}', timezone('{ZONE}', {x}))" for x in ("s.time", "e.t"))
        start = f"epoch_us(timezone('{ZONE}', {now}))"
        back = f"interval 1 {period}"
    if previous:
        return f"{then} = {now} - {back}"
    return f"{then} = {now} and ({t} - {start}) // {hop} <= ({q} - {start}) // {hop}"


def last(arrived, n):
    """The newest by time, of one instant the latest to arrive; of these those that are not after the read."""
    return f"""select * from (select s.row, s.time, e.* exclude (account) from s join e on e.account = s.account and {arrived}
        qualify row_number() over (partition by s.row order by e.t desc, e.seq desc) <= {n}) where t <= time"""


def session(arrived):
    """Back from the read to the first gap of more than thirty minutes, in a window of four hours with a hop of a minute. An event of the read's
    own minute that is after it does not begin a gap, and counts."""
    hop, gap, most = 60_000_000, 1_800_000_000, 14_400_000_000
    return f"""
        with near as (
            select s.row, epoch_us(s.time) as q, e.* exclude (account) from s join e on e.account = s.account and {arrived}
            and epoch_us(e.t) // {hop} between (epoch_us(s.time) - {most}) // {hop} and epoch_us(s.time) // {hop}
        ), gaps as (
            select *, coalesce(lag(epoch_us(t)) over newest, q) - epoch_us(t) > {gap} as broken from near window newest as (partition by row order by t desc, seq desc)
        )
        select * from gaps qualify not bool_or(broken) over (partition by row order by t desc, seq desc rows unbounded preceding)"""


def decayed(con, arrived):
    """Weights halve every two days, from the read or the newest event the feature counts, whichever is later."""
    half = 2 * 86_400e6

    def weighted(what, x):
        weight = f"pow(2.0, -(greatest(epoch_us(s.time), newest) - epoch_us(e.t)) / {half})"
        value = {"n": f"coalesce(sum({weight}), 0)", "sum": f"sum({weight} * amount)", "mean": f"sum({weight} * amount) / sum({weight})"}[what]
        return con.sql(f"""
            with j as (select s.row, s.time, e.t, e.amount, max(epoch_us(e.t)) over (partition by s.row) as newest
                from s left join e on e.account = s.account and {arrived} and {x} is not null)
            select {value.replace('s.time', 'time').replace('e.t', 't')} as v, sum(abs(amount)) as size from j group by row order by row""")

    columns = {}
    for what, x in (("n", "e.seq"), ("sum", "e.amount"), ("mean", "e.amount")):
        values, sizes = columns_of(weighted(what, x))
        columns[column(f"decay_{what}", "decay 2d")] = (values, "float", sizes)
    return columns
