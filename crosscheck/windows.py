"""What is compared: aggregates with their kind of equality, windows with their meaning. See docs/reference/windows.md."""

HOUR = 3_600_000_000
DAY = 24 * HOUR

# Name: the feature line, the kind of equality.
AGGREGATES = {
    "n": ("count(*)", "same"),
    "n_amount": ("count(amount)", "same"),
    "n_card": ("count(*) where kind = 'card'", "same"),
    "sum_n": ("sum(n)", "same"),
    "mean_n": ("mean(n)", "float"),
    "sum": ("sum(amount)", "float"),
    "sum_card": ("sum(amount) where kind = 'card' and n > 0", "float"),
    "mean": ("mean(amount)", "float"),
    "low": ("min(amount)", "same"),
    "high": ("max(n)", "same"),
    "variance": ("variance(amount)", "float"),
    "stddev": ("stddev(amount)", "float"),
    "skew": ("skew(n)", "moment"),
    "kurtosis": ("kurtosis(n)", "moment"),
    "first": ("first(kind)", "same"),
    "last": ("last(amount)", "same"),
    "first_at": ("first_time()", "same"),
    "last_at": ("last_time()", "same"),
    "idle": ("time_since_last()", "float"),
    "kinds": ("distinct(kind)", "same"),
    "numbers": ("approx_distinct(n)", "sketch"),
    "quantile": ("quantile(amount, 0.9)", "quantile"),
    "median": ("median(n)", "quantile"),
    "cheapest": ("argmin(kind, amount)", "same"),
    "dearest": ("argmax(n, amount)", "same"),
    "top": ("top_k(amount, 3)", "same"),
    "newest": ("last_k(n, 3)", "same"),
    "bins": ("histogram(amount, 0, 10, 100)", "same"),
    "share": ("ratio(amount > 20)", "float"),
    "trend": ("trend(n)", "trend"),
    "gap": ("gap_mean()", "float"),
}

# Windows as written: the length, and for those that move in hops the hop, in microseconds.
EXACT = {"1h exact": HOUR, "1d exact": DAY, "7d exact": 7 * DAY}
SAWTOOTH = {"1h": (HOUR, HOUR // 60), "7d": (7 * DAY, HOUR), "30d": (30 * DAY, 6 * HOUR)}
# Periods of a calendar with the hop inside them.
CALENDAR = {"day": HOUR // 12, "week": HOUR, "month": 6 * HOUR}
ZONE = "Europe/Prague"
TUMBLING = {"tumbling 6h": (6 * HOUR, HOUR // 12)}
PERIODS = [*CALENDAR, *TUMBLING]

WINDOWS = [*EXACT, *SAWTOOTH, *PERIODS, *(f"previous {p}" for p in PERIODS), "lifetime"]
# These two go by other events than those a `where` lets pass, or by fewer: compared for lines without one.
BY_EVENTS = ["last 10", "session 30m max 4h"]


def column(name, window):
    """What Kilter calls it."""
    return name if window == "lifetime" else f"{name}_{window.replace(' ', '_')}"
