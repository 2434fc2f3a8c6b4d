"""The peer of ingestion and freshness: what a team writes in Python when it wants windowed features without a stream processor.

FastAPI and one uvicorn process, since the windows live in it. Events are checked by Pydantic, made durable in SQLite (WAL,
synchronous=FULL) with one commit for all requests that wait, and counted into tiles per account: five minutes for the 1 h windows, an
hour for the longer ones. The features are those of the example's `account` view, except for the median, for which there is no cheap
way here. Decisions are LightGBM's on these features with four TreeSHAP reasons, and are not recorded.

`events_service.py FILE DATABASE` does the same without HTTP: reads NDJSON, a thousand events to a commit, prints seconds.
"""

import asyncio
import contextlib
import datetime
import math
import os
import sqlite3
import sys
import time

import lightgbm
import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, TypeAdapter

HOUR = 3600


class Transaction(BaseModel):
    transaction_id: str
    account_id: int
    booked_at: datetime.datetime
    amount: float
    kind: str | None = None
    balance: float | None = None


class Repayment(BaseModel):
    application_id: str
    account_id: int | None = None
    observed_at: datetime.datetime
    defaulted: bool | None = None
    lost: float | None = None


class Application(BaseModel):
    application_id: str
    account_id: int
    applied_at: datetime.datetime
    amount: float
    months: int
    payment: float


class Tile:
    __slots__ = ("count", "turnover", "income", "spent", "salary", "rent", "withdrawn", "withdrawals", "fees", "overdrafts", "low",
                 "balances", "known", "amounts", "squares", "largest", "kinds")

    def __init__(self):
        self.count = self.turnover = self.income = self.spent = self.salary = self.rent = self.withdrawn = 0
        self.withdrawals = self.fees = self.overdrafts = self.balances = self.known = self.amounts = self.squares = self.largest = 0
        self.low, self.kinds = math.inf, set()

    def add(self, amount, kind, balance):
        self.count += 1
        self.amounts += amount
        self.squares += amount * amount
        if amount > 0:
            self.income += amount
            size = amount
        else:
            size = -amount
            self.spent += size
        self.turnover += size
        if size > self.largest:
            self.largest = size
        self.kinds.add(kind)
        if kind == "salary":
            self.salary += amount
        elif kind == "rent":
            self.rent += size
        elif kind == "withdrawal":
            self.withdrawn += size
            self.withdrawals += 1
        elif kind == "fee":
            self.fees += 1
        if balance is not None:
            self.known += 1
            self.balances += balance
            if balance < self.low:
                self.low = balance
            if balance < 0:
                self.overdrafts += 1


class Account:
    __slots__ = ("short", "long", "balance", "last", "salary")

    def __init__(self):
        self.short, self.long, self.balance, self.last, self.salary = {}, {}, None, None, None


class Windows:
    def __init__(self):
        self.accounts = {}

    def add(self, event):
        at = event.booked_at.timestamp()
        account = self.accounts.get(event.account_id)
        if account is None:
            account = self.accounts[event.account_id] = Account()
        for tiles, step, keep in ((account.short, 300, HOUR), (account.long, HOUR, 31 * 24 * HOUR)):
            bucket = at // step
            tile = tiles.get(bucket)
            if tile is None:
                tile = tiles[bucket] = Tile()
                oldest = next(iter(tiles))
                if (bucket - oldest) * step > keep + step:
                    del tiles[oldest]
            tile.add(event.amount, event.kind, event.balance)
        account.balance, account.last = event.balance, at
        if event.kind == "salary":
            account.salary = at

    def read(self, key, now):
        account = self.accounts.get(key) or Account()
        hour = [t for b, t in account.short.items() if b * 300 > now - HOUR]
        features = {"txn_count_1h": sum(t.count for t in hour), "withdrawn_1h": sum(t.withdrawn for t in hour)}
        for days in (1, 7, 30):
            tiles = [t for b, t in account.long.items() if b * HOUR > now - days * 24 * HOUR]
            count, known = sum(t.count for t in tiles), sum(t.known for t in tiles)
            total, squares = sum(t.amounts for t in tiles), sum(t.squares for t in tiles)
            low = min((t.low for t in tiles), default=math.inf)
            features |= {
                f"txn_count_{days}d": count,
                f"turnover_{days}d": sum(t.turnover for t in tiles),
                f"income_{days}d": sum(t.income for t in tiles),
                f"spent_{days}d": sum(t.spent for t in tiles),
                f"withdrawn_{days}d": sum(t.withdrawn for t in tiles),
                f"withdrawals_{days}d": sum(t.withdrawals for t in tiles),
                f"overdrafts_{days}d": sum(t.overdrafts for t in tiles),
                f"low_{days}d": low if known else None,
                f"mean_balance_{days}d": sum(t.balances for t in tiles) / known if known else None,
                f"swing_{days}d": math.sqrt(max(0, squares - total * total / count) / (count - 1)) if count > 1 else None,
                f"largest_{days}d": max((t.largest for t in tiles), default=None),
            }
            if days == 7:
                features["kinds_7d"] = len(set().union(*(t.kinds for t in tiles)))
            if days == 30:
                features |= {f"{name}_30d": sum(getattr(t, name) for t in tiles) for name in ("salary", "rent", "fees")}
        features["balance"] = account.balance
        features["idle"] = None if account.last is None else now - account.last
        features["since_salary"] = None if account.salary is None else now - account.salary
        return features


class Store:
    """Events on disk, ids seen."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.db.execute("create table if not exists events (source text, id text, account integer, body text)")
        self.seen = set()

    def fresh(self, events):
        kept = [event for event in events if event.transaction_id not in self.seen]
        self.seen.update(event.transaction_id for event in kept)
        return kept

    def write(self, rows):
        self.db.execute("begin")
        self.db.executemany("insert into events values (?, ?, ?, ?)", rows)
        self.db.execute("commit")


def rows(source, events):
    return [(source, getattr(e, "transaction_id", None), e.account_id, e.model_dump_json()) for e in events]


def parse(kind, body):
    if body.startswith(b"["):
        return TypeAdapter(list[kind]).validate_json(body)
    return [kind.model_validate_json(line) for line in body.splitlines() if line]


def train():
    """Any model of the example's size will do: what it costs does not hang on what it learned."""
    random = np.random.default_rng(7)
    x = random.normal(size=(20_000, len(Windows().read(0, 0)) + 3))
    y = random.random(len(x)) < 1 / (1 + np.exp(-x[:, :5].sum(axis=1)))
    parameters = {"objective": "binary", "num_leaves": 15, "learning_rate": 0.05, "verbose": -1, "num_threads": 2}
    return lightgbm.train(parameters, lightgbm.Dataset(x, y), int(os.environ.get("TREES", "100")))


windows = Windows()


@contextlib.asynccontextmanager
async def lifespan(app):
    app.store, app.queue, app.model, app.now = Store(os.environ["DATABASE"]), asyncio.Queue(), train(), 0.0
    writer = asyncio.create_task(write(app))
    yield
    writer.cancel()


async def write(app):
    """One commit for everything that waits."""
    while True:
        waiting = [await app.queue.get()]
        while not app.queue.empty():
            waiting.append(app.queue.get_nowait())
        await asyncio.to_thread(app.store.write, [row for batch, _ in waiting for row in batch])
        for _, done in waiting:
            done.set_result(None)


app = FastAPI(lifespan=lifespan)


async def durable(batch):
    done = asyncio.get_running_loop().create_future()
    app.queue.put_nowait((batch, done))
    await done


@app.post("/v1/events/transactions")
async def transactions(request: Request):
    events = parse(Transaction, await request.body())
    fresh = app.store.fresh(events)
    for event in fresh:
        windows.add(event)
    if fresh:
        app.now = max(app.now, fresh[-1].booked_at.timestamp())
        await durable(rows("transactions", fresh))
    return {"accepted": len(fresh), "duplicates": len(events) - len(fresh)}


@app.post("/v1/events/repayments")
async def repayments(request: Request):
    events = parse(Repayment, await request.body())
    await durable(rows("repayments", events))
    return {"accepted": len(events), "duplicates": 0}


@app.get("/v1/features/account/{key}")
async def features(key: int):
    return windows.read(key, app.now)


@app.post("/v1/decide/loan")
async def decide(application: Application):
    values = windows.read(application.account_id, application.applied_at.timestamp())
    row = [math.nan if v is None else v for v in values.values()] + [application.amount, application.months, application.payment]
    parts = app.model.predict(np.array([row]), pred_contrib=True, num_threads=1)[0]
    score = 1 / (1 + math.exp(-parts.sum()))
    names = [*values, "amount", "months", "payment"]
    reasons = [{"feature": names[i], "contribution": parts[i]} for i in np.argsort(-parts[:-1])[:4]]
    outcome = "decline" if score >= 0.2 else "review" if score >= 0.08 else "approve"
    return {"application_id": application.application_id, "outcome": outcome, "score": score, "reasons": reasons}


@app.get("/healthz")
async def healthz():
    return {"status": "ok"}


def from_file(path, database):
    store, began, total = Store(database), time.time(), 0
    with open(path, "rb") as file:
        while lines := file.readlines(200_000):
            fresh = store.fresh([Transaction.model_validate_json(line) for line in lines])
            for event in fresh:
                windows.add(event)
            store.write(rows("transactions", fresh))
            total += len(fresh)
    print(f"{total} {time.time() - began:.3f}")


if __name__ == "__main__":
    from_file(*sys.argv[1:])
