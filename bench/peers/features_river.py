"""River: statistics per account, updated event by event.

`utils.TimeRolling` gives exact windows for what can be reverted: sums, and counts as sums of ones, 12 of the 21 features. It has no minimum, maximum or last over a time,
so these are kept over all time (3 instead of 9). It keeps every event of a window, several times over.
"""

import datetime
import sys

import orjson
from river import stats, utils

WINDOWS = tuple(datetime.timedelta(hours=h) for h in (1, 24, 720))


class Account:
    __slots__ = ("n", "total", "cards", "card_total", "low", "high", "last")

    def __init__(self):
        self.n, self.total, self.cards, self.card_total = (tuple(utils.TimeRolling(stats.Sum, period=w) for w in WINDOWS) for _ in range(4))
        self.low, self.high, self.last = stats.Min(), stats.Max(), None

    def update(self, amount, card, at):
        for rolling in self.n:
            rolling.update(1, t=at)
        for rolling in self.total:
            rolling.update(amount, t=at)
        if card:
            for rolling in self.cards:
                rolling.update(1, t=at)
            for rolling in self.card_total:
                rolling.update(amount, t=at)
        self.low.update(amount)
        self.high.update(amount)
        self.last = amount


accounts = {}
for line in open(sys.argv[1], "rb"):
    event = orjson.loads(line)
    account = accounts.get(event["account_id"])
    if account is None:
        account = accounts[event["account_id"]] = Account()
    account.update(event["amount"], event["kind"] == "card", datetime.datetime.fromisoformat(event["at"]).replace(tzinfo=None))
