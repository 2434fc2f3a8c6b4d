"""Several workers that share a project on a Kafka cluster, while workers and brokers fail: what comes of it must be what one careful thread makes of the same records."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from chaos import PARTITIONS, oracle, produce, read
from cluster import Cluster, free_port
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

WORKERS = 3
SOURCES = ["transactions", "by_amount"]
# The same topic brought to the shards of another column.
BROUGHT = """
[source.by_amount]
connector = "kafka"
topic = "transactions"
partition_by = "amount"
time = "at"
max_future = "none"
columns = { amount = "int64", at = "timestamp", number = "int64" }
[features.amount]
source = "by_amount"
entity = "amount"
columns = { n = "count(*) over lifetime", numbers = "sum(number) over lifetime" }
"""
PROJECT = """
[project]
name = "lender"
[snapshot]
every = "2s"
min_events = 500
[kafka]
brokers = "{brokers}"
properties = {{ {properties} }}
[workers]
key = "account"
shards = 12
partitioner = "crc32"
snapshots = "3s"
standby = {standby}
[lake]
url = "lake"
every = "1s"
records = 1000
[source.transactions]
connector = "kafka"
topic = "transactions"
time = "at"
max_future = "none"
[source.transactions.columns]
account = "int64"
at = "timestamp"
amount = "int64"
number = "int64"
[features.account]
source = "transactions"
entity = "account"
[features.account.columns]
n = "count(*) over lifetime"
sum = "sum(amount) over lifetime"
[decision.limit]
on = "transactions"
policy = [{{ when = "account.n > 20 AND amount > 500", outcome = "review" }}, {{ outcome = "approve" }}]
[sink.decisions]
from = "decision.limit"
topic = "decisions"
key = "account"
delivery = "{delivery}"
partitions = 3
[sink.dead]
from = "dead_letters"
topic = "dead"
delivery = "{delivery}"
partitions = 1
"""
# How the group is kept: by the protocol that all brokers know, or by the one of KIP-848, whose timeouts are the brokers'.
PROTOCOLS = {"classic": '"session.timeout.ms" = "6000", "heartbeat.interval.ms" = "1000"', "consumer": '"group.protocol" = "consumer"'}
BROKERS = {
    "group.consumer.min.session.timeout.ms": 6000, "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 1000, "group.consumer.heartbeat.interval.ms": 1000,
}
FAULTS = ["kill", "kill", "stop", "lost disk", "freeze", "freeze", "broker", "broker", "cut", "both", "slow disk", "one more"]


class Worker:
    def __init__(self, program: str, folder: pathlib.Path, name: str, named: bool):
        self.program, self.folder, self.name, self.port = program, folder, name, free_port()
        # With a name of its own it comes back to its shards.
        self.id = ["--id", name] if named else []
        self.data = folder / name
        self.process = None

    def start(self):
        with open(self.folder / f"{self.name}.out", "ab") as out:
            command = [self.program, "-C", str(self.folder), "worker", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}", *self.id]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def kill(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait()

    def ask(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def ask_again(self, path: str):
        """As a client should: while a shard goes from one worker to another it is told to come back."""
        end = time.monotonic() + 60
        while True:
            try:
                return self.ask(path)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end:
                    raise SystemExit(f"{path}: {error.code}, {error.read().decode()}\n{self.tail()}") if error.code == 503 else error
                time.sleep(float(error.headers["Retry-After"]))

    def tail(self) -> str:
        return f"{self.name}:\n{(self.folder / f'{self.name}.out').read_text()[-3000:]}"


def trouble(rng: random.Random, cluster: Cluster, workers: list[Worker], done: threading.Event, faults: int) -> list[str]:
    story = []
    for _ in range(faults):
        time.sleep(rng.uniform(0.5, 4))
        what = rng.choice(FAULTS)
        worker, n = rng.choice(workers), rng.randrange(cluster.brokers)
        story.append(what)
        pause = rng.uniform(0, 3)
        if what in ("kill", "both"):
            worker.kill()
        if what == "lost disk":  # the worker comes back with nothing
            worker.kill()
            shutil.rmtree(worker.data, ignore_errors=True)
        if what == "stop":
            worker.kill(signal.SIGTERM)
        if what == "freeze":  # at times longer than its session lasts: it wakes up and does not know that others have its shards
            worker.process.send_signal(signal.SIGSTOP)
            time.sleep(rng.choice([1, 3, 9, 12]))
            worker.process.send_signal(signal.SIGCONT)
        if what in ("broker", "both"):
            cluster.kill(n)
        if what == "cut":
            cluster.pause(n)
            time.sleep(rng.uniform(0.5, 6))
            cluster.resume(n)
        if what == "slow disk":
            hog = subprocess.Popen(["dd", "if=/dev/zero", f"of={worker.folder}/hog", "bs=1M", "count=400", "oflag=sync"], stderr=subprocess.DEVNULL)
            time.sleep(pause)
            hog.kill()
            hog.wait()
        if what == "one more":
            extra = Worker(worker.program, worker.folder, "extra", False)
            extra.start()
            time.sleep(2 + 3 * pause)
            extra.kill(rng.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(pause)
        if what in ("broker", "both"):
            cluster.start(n)
        if worker.process.poll() is not None:
            worker.start()
        if what in ("broker", "both"):
            cluster.wait(n)
    done.wait()
    return story


def taken_of(status, source: str) -> int:
    return next(of["events"] for of in status["sources"] if of["source"] == source)


def settled(workers: list[Worker], events: int):
    """Until every shard has a worker, everything is in and everything is out. Gives what each shard says of its source."""
    end = time.monotonic() + 300
    told = None
    while time.monotonic() < end:
        for worker in workers:
            if worker.process.poll() is not None:
                raise SystemExit(f"a worker has ended:\n{worker.tail()}")
        try:
            told = [workers[shard % len(workers)].ask(f"/v1/shards/{shard}/status") for shard in range(PARTITIONS)]
            taken = min(sum(taken_of(status, source) for status in told) for source in SOURCES)
            out = all(sink["next"] == sink["end"] for status in told for sink in status["sinks"])
            if taken >= events and out and all(len(status["sinks"]) == 2 and status["lake"] for status in told):
                return told
        except (OSError, urllib.error.HTTPError):
            pass
        time.sleep(0.3)
    raise SystemExit("waited five minutes: " + json.dumps(told and [[s["sources"], s["sinks"]] for s in told]) + "".join(w.tail() for w in workers))


def expected(records: list) -> dict[int, list[str]]:
    """The outcomes of each account's transactions, in order, as one thread decides them."""
    seen, outcomes = {}, {}
    for message in sorted(records, key=lambda m: (m.partition(), m.offset())):
        row = json.loads(message.value())
        n = seen.get(row["account"], 0)
        outcomes.setdefault(row["account"], []).append("review" if n > 20 and row["amount"] > 500 else "approve")
        seen[row["account"]] = n + 1
    return outcomes


def check(options, workers: list[Worker], cluster: Cluster, delivery: str):
    sent = read(cluster.addresses, "transactions", "read_committed")
    assert len(sent) == options.events, f"{len(sent)} transactions in the topic"
    told = settled(workers, options.events)
    for source in SOURCES:
        taken = [taken_of(status, source) for status in told]
        assert sum(taken) == options.events, f"{sum(taken)} of {options.events} events of {source} in the logs: {taken}"
    for account, (n, total) in oracle(sent).items():
        # Any worker answers for any account.
        features = workers[account % len(workers)].ask_again(f"/v1/features/account/{account}")["features"]
        assert (features["n"], features["sum"]) == (n, total), f"account {account}: {features}, not {n} and {total}"
    # The same topic, brought to the shards of another column.
    of_amount = {}
    for row in (json.loads(message.value()) for message in sent):
        n, numbers = of_amount.get(row["amount"], (0, 0))
        of_amount[row["amount"]] = (n + 1, numbers + row["number"])
    for amount, expected_ in of_amount.items():
        features = workers[amount % len(workers)].ask_again(f"/v1/features/amount/{amount}")["features"]
        assert (features["n"], features["numbers"]) == expected_, f"amount {amount}: {features}, not {expected_}"
    decided = read(cluster.addresses, "decisions", "read_committed")
    by_id, of_account = {}, {}
    for message in decided:
        headers = {key: value.decode() for key, value in message.headers()}
        seen = by_id.setdefault(headers["ce_id"], message.value())
        assert seen == message.value(), f"{headers['ce_id']} came again and was another decision"
    assert len(by_id) == options.events, f"{len(by_id)} of {options.events} decisions in the topic"
    if delivery == "transactional":
        assert len(decided) == options.events, f"{len(decided) - options.events} decisions are there twice"
    for message in decided:
        body = json.loads(message.value())
        of_account.setdefault(int(message.key()), {})[body["as_of_offset"]] = body["outcome"]
    want = expected(sent)
    for account, outcomes in want.items():
        found = [outcome for _, outcome in sorted(of_account.get(account, {}).items())]
        assert found == outcomes, f"account {account}: the decisions are not those of one careful thread"
    dead = read(cluster.addresses, "dead", "read_committed")
    assert not dead, f"{len(dead)} dead letters"
    # A decision is found through any worker, unless the shard's folder was made of a bundle behind it.
    some = sorted(by_id)[:: max(1, len(by_id) // 20)]
    for n, id in enumerate(some):
        try:
            assert workers[n % len(workers)].ask_again(f"/v1/decisions/{id}")["decision_id"] == id
        except urllib.error.HTTPError as error:
            offset = int(id.rpartition("-")[2])
            # As it is now: the shard may have gone to a worker without its folder meanwhile.
            start = workers[n % len(workers)].ask_again(f"/v1/shards/{offset >> 40}/status")["lake"]["log_start"]
            assert error.code == 404 and offset < start, f"{id} is not found, and the log of its shard begins at {start}"


def lose_everything(options, workers: list[Worker], cluster: Cluster, delivery: str) -> int:
    """All workers lose their disks at once: whatever shard has a bundle goes on from one, for a journal that is shorter than its shard. Gives the number of such shards."""
    bundles = [status["bundle"] and status["bundle"]["offset"] for status in settled(workers, options.events)]
    for worker in workers:
        worker.kill()
        shutil.rmtree(worker.data, ignore_errors=True)
    journal = Consumer({"bootstrap.servers": cluster.addresses, "group.id": "reader"})
    shortened = [journal.get_watermark_offsets(TopicPartition("lender.journal", shard), timeout=60)[0] > 0 for shard in range(PARTITIONS)]
    journal.close()
    for worker in workers:
        worker.start()
    check(options, workers, cluster, delivery)
    begins = [status["lake"]["log_start"] for status in settled(workers, options.events)]
    for shard, (bundle, begin) in enumerate(zip(bundles, begins)):
        # The owner before may have made one more while it was asked.
        assert begin >= (bundle or shard << 40), f"shard {shard} begins at {begin}, and there was a bundle at {bundle}"
        assert begin > shard << 40 or not shortened[shard], f"shard {shard} begins at {begin}, which the journal does not reach"
    return sum(shortened)


def round_(options, seed: int, delivery: str, protocol: str, named: bool, standby: bool, folder: pathlib.Path) -> str:
    rng = random.Random(seed)
    cluster = Cluster(folder / "kafka", options.cache, 3, BROKERS)
    project = folder / "project"
    project.mkdir(parents=True)
    text = PROJECT.format(brokers=cluster.addresses, delivery=delivery, properties=PROTOCOLS[protocol], standby=json.dumps(standby))
    (project / "kilter.toml").write_text(text + BROUGHT)
    workers = [Worker(options.program, project, f"worker-{n}", named) for n in range(WORKERS)]
    try:
        cluster.start_all()
        admin = AdminClient({"bootstrap.servers": cluster.addresses, "log_level": 2})
        for future in admin.create_topics([NewTopic("transactions", PARTITIONS, 3)], operation_timeout=60, request_timeout=60).values():
            future.result()
        for worker in workers:
            worker.start()
        done = threading.Event()
        producer = threading.Thread(target=produce, args=(cluster.addresses, options.events, options.pace, seed, done), daemon=True)
        producer.start()
        story = trouble(rng, cluster, workers, done, options.faults)
        settled(workers, options.events)
        check(options, workers, cluster, delivery)
        shortened = lose_everything(options, workers, cluster, delivery)
        for worker in workers:
            worker.kill(signal.SIGTERM)
        return ", ".join(story) + f"; then all disks at once, with {shortened} of {PARTITIONS} journals shortened"
    except BaseException:
        print(f"the project and the brokers' logs are in {folder}", file=sys.stderr)
        options.keep = True
        raise
    finally:
        for worker in workers:
            worker.kill()
        cluster.stop()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("program")
    options.add_argument("--cache", type=pathlib.Path, required=True)
    options.add_argument("--rounds", type=int, default=2, help="half of them transactional, half of them by the newer protocol of groups, a third with names, some with copies of shards")
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--events", type=int, default=60_000)
    options.add_argument("--pace", type=float, default=4_000, help="transactions a second")
    options.add_argument("--faults", type=int, default=6)
    options.add_argument("--keep", action="store_true", help="leave the folders of rounds behind")
    options = options.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    for number in range(options.rounds):
        seed = first + number
        delivery = ["transactional", "idempotent"][number % 2]
        protocol = ["classic", "consumer"][(number + number // 2) % 2]
        named = number % 3 == 1
        standby = number % 5 in (1, 2, 4)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="kilter-workers-"))
        began = time.monotonic()
        try:
            story = round_(options, seed, delivery, protocol, named, standby, folder)
        finally:
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
        print(f"workers, round {number + 1}, --seed {seed}, {delivery}, {protocol} protocol{', named' if named else ''}{', standby' if standby else ''}: {options.events} transactions by {WORKERS} workers, every one once, "
              f"every decision as one thread makes it; {time.monotonic() - began:.0f} s: {story}", flush=True)


if __name__ == "__main__":
    main()
