"""The features by Polars: one join, then for each window a filter and a group."""

import polars as pl

from windows import AGGREGATES, CALENDAR, EXACT, SAWTOOTH, TUMBLING, WINDOWS, ZONE, column

TRUNCATED = {"day": "1d", "week": "1w", "month": "1mo"}

amount, n, kind, t, seq, time = (pl.col(c) for c in ("amount", "n", "kind", "t", "seq", "time"))
numbered = n.is_not_null()
days = (t.dt.timestamp("us") - time.dt.timestamp("us")) / 86400e6
varied = n.min() < n.max()


def if_any(x, value):
    return pl.when(x.count() > 0).then(value)


def at_best(x, by, best):
    """The value of `x` where `by` is best; the rows are in order of time, so of equals the earliest is found first."""
    both = x.is_not_null() & by.is_not_null()
    return x.filter(both).get(getattr(by.filter(both), best)(), null_on_oob=True)


def between(low, high):
    return ((amount >= low) & (amount < high)).sum()


# The rows of a group are in order of time and arrival.
VALUES = {
    "n": (pl.len(), None),
    "n_amount": (amount.count(), None),
    "n_card": ((kind == "card").sum(), None),
    "sum_n": (if_any(n, n.sum()), None),
    "mean_n": (n.mean(), n.abs().mean()),
    "sum": (if_any(amount, amount.sum()), amount.abs().sum()),
    "sum_card": (if_any(amount.filter((kind == "card") & (n > 0)), amount.filter((kind == "card") & (n > 0)).sum()), amount.abs().sum()),
    "mean": (amount.mean(), amount.abs().mean()),
    "low": (amount.min(), None),
    "high": (n.max(), None),
    "variance": (amount.var(), (amount * amount).sum()),
    "stddev": (amount.std(), amount.abs().sum()),
    "skew": (pl.when(varied & (n.count() > 2)).then(n.drop_nulls().skew(bias=False)), 1e3 * n.count()),
    "kurtosis": (pl.when(varied & (n.count() > 3)).then(n.drop_nulls().kurtosis(bias=False)), 1e3 * n.count()),
    "first": (kind.drop_nulls().first(), None),
    "last": (amount.drop_nulls().last(), None),
    "first_at": (t.min().dt.timestamp("us"), None),
    "last_at": (t.max().dt.timestamp("us"), None),
    "idle": ((time.first().dt.timestamp("us") - t.max().dt.timestamp("us")).clip(0) / 1e6, None),
    "kinds": (kind.drop_nulls().n_unique(), None),
    "numbers": (n.drop_nulls().n_unique(), None),
    "quantile": (amount.quantile(0.9, interpolation="lower"), None),
    "median": (n.quantile(0.5, interpolation="lower"), None),
    "cheapest": (at_best(kind, amount, "arg_min"), None),
    "dearest": (at_best(n, amount, "arg_max"), None),
    "top": (amount.drop_nulls().sort(descending=True).head(3), None),
    "newest": (n.drop_nulls().tail(3), None),
    "bins": (pl.concat_list(between(float("-inf"), 0), between(0, 10), between(10, 100), between(100, float("inf"))), None),
    "share": ((amount > 20).mean(), None),
    "trend": (pl.when(t.filter(numbered).n_unique() > 1).then(pl.cov(n.filter(numbered), days.filter(numbered)) / days.filter(numbered).var()),
              1e3 * (n * n).sum().sqrt() / (n.count() * days.filter(numbered).var()).sqrt()),
    "gap": (pl.when(pl.len() > 1).then((t.max().dt.timestamp("us") - t.min().dt.timestamp("us")) / 1e6 / (pl.len() - 1)), None),
}
COUNTS = ("n", "n_amount", "n_card", "kinds", "numbers")


def features(events, rows, arrived):
    joined = rows.join(events, on="account").filter(arrived).sort("row", "t", "seq")
    for period, every in TRUNCATED.items():
        local = lambda x: x.dt.convert_time_zone(ZONE).dt.truncate(every)
        joined = joined.with_columns(local(t).alias(f"t_{period}"), local(time).alias(f"now_{period}"), local(time).dt.offset_by(f"-{every}").alias(f"before_{period}"))
    columns = {}
    for window in WINDOWS:
        wanted = [x.alias(f"v_{name}") for name, (x, _) in VALUES.items()]
        wanted += [size.cast(pl.Float64).alias(f"s_{name}") for name, (_, size) in VALUES.items() if size is not None]
        found = joined.filter(within(window)).group_by("row", maintain_order=True).agg(wanted)
        found = rows.select("row").join(found, on="row", how="left", maintain_order="left")
        for name in VALUES:
            values = found[f"v_{name}"].to_list()
            empty = {"top": [], "newest": [], "bins": [0.0] * 4}.get(name, 0 if name in COUNTS else None)
            values = [empty if v is None or v != v else v for v in values]
            sizes = found[f"s_{name}"].to_list() if f"s_{name}" in found.columns else [None] * len(values)
            columns[column(name, window)] = (values, AGGREGATES[name][1], sizes)
    return columns


def within(window):
    then, q = t.dt.timestamp("us"), time.dt.timestamp("us")
    if window in EXACT:
        return (t >= time - pl.duration(microseconds=EXACT[window])) & (t <= time)
    if window in SAWTOOTH:
        length, hop = SAWTOOTH[window]
        return (then // hop >= (q - length) // hop) & (then // hop <= q // hop)
    if window == "lifetime":
        return pl.lit(True)
    previous, period = window.startswith("previous "), window.removeprefix("previous ")
    if period in TUMBLING:
        length, hop = TUMBLING[period]
        if previous:
            return then // length == q // length - 1
        same, start = then // length == q // length, q // length * length
    else:
        hop, now = CALENDAR[period], pl.col(f"now_{period}")
        if previous:
            return pl.col(f"t_{period}") == pl.col(f"before_{period}")
        same, start = pl.col(f"t_{period}") == now, now.dt.timestamp("us")
    return same & ((then - start) // hop <= (q - start) // hop)
