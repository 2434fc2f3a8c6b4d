"""Pathway: a sliding window per length, grouped by account, as in its documentation.

An event is taken into every sliding window it lies in: with hops of a twelfth of the window (Kilter's are a sixtieth and finer), into 36; with
one hop a window, which makes tumbling windows, into 3. The file is read as a static table, which is its fastest mode. `latest` is by arrival, not by event time.
"""

import sys
from datetime import timedelta

import pathway as pw


class Payment(pw.Schema):
    account_id: int
    merchant: str
    amount: float
    kind: str
    at: str


file, _, hops = sys.argv[1:4]
events = pw.io.jsonlines.read(file, schema=Payment, mode="static")
events = events.select(
    pw.this.account_id, pw.this.amount, at=pw.this.at.dt.strptime("%Y-%m-%dT%H:%M:%S.%3fZ"),
    card=pw.if_else(pw.this.kind == "card", 1, 0), card_amount=pw.if_else(pw.this.kind == "card", pw.this.amount, 0.0))
for window in (timedelta(hours=1), timedelta(days=1), timedelta(days=30)):
    sliding = pw.temporal.sliding(hop=window / int(hops), duration=window)
    features = events.windowby(events.at, window=sliding, instance=events.account_id).reduce(
        account_id=pw.this._pw_instance,
        end=pw.this._pw_window_end,
        n=pw.reducers.count(),
        total=pw.reducers.sum(pw.this.amount),
        low=pw.reducers.min(pw.this.amount),
        high=pw.reducers.max(pw.this.amount),
        last=pw.reducers.latest(pw.this.amount),
        cards=pw.reducers.sum(pw.this.card),
        card_total=pw.reducers.sum(pw.this.card_amount))
    pw.io.null.write(features)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
