"""Kilter on a Kafka cluster that fails, and Kilter that fails: nothing may be lost, and nothing may be there twice."""

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
import urllib.request

from cluster import Cluster, free_port
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 12
PROJECT = """
[project]
name = "lender"
[server]
listen = "127.0.0.1:{port}"
[snapshot]
every = "2s"
min_events = 1000
[kafka]
brokers = "{brokers}"
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
last = "last(number) over last 1"
[decision.limit]
on = "transactions"
policy = [{{ when = "account.n > 20 AND amount > 500", outcome = "review" }}, {{ outcome = "approve" }}]
[sink.decisions]
from = "decision.limit"
topic = "decisions"
key = "account"
delivery = "{delivery}"
partitions = 3
"""


class Kilter:
    def __init__(self, program: str, folder: pathlib.Path, port: int):
        self.program, self.folder, self.port = program, folder, port
        self.process = None

    def start(self):
        with open(self.folder / "kilter.out", "ab") as out:
            self.process = subprocess.Popen([self.program, "-C", str(self.folder), "up"], stdout=out, stderr=out)

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()

    def ask(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def status(self):
        try:
            return self.ask("/v1/status")
        except OSError:
            return None


def produce(addresses: str, events: int, pace: float, seed: int, done: threading.Event):
    """Every transaction once: the producer is idempotent and tries for as long as it takes."""
    rng = random.Random(seed)
    producer = Producer({
        "bootstrap.servers": addresses, "enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 5,
        "compression.type": "zstd", "socket.timeout.ms": 5000, "log_level": 2,
    })
    failed = []
    for number in range(events):
        account = rng.randrange(500)
        row = {"account": account, "at": f"2026-03-{1 + number * 27 // events:02}T00:00:00Z", "amount": rng.randrange(1000), "number": number}
        while True:
            try:
                producer.produce("transactions", key=str(account), value=json.dumps(row), on_delivery=lambda e, _: e and failed.append(e))
                break
            except BufferError:
                producer.poll(0.1)
        if number % 500 == 0:
            producer.poll(0)
            time.sleep(500 / pace)
    producer.flush()
    assert not failed, failed[:3]
    done.set()


def read(addresses: str, topic: str, isolation: str) -> list:
    """All records of a topic."""
    consumer = Consumer({"bootstrap.servers": addresses, "group.id": "checker", "isolation.level": isolation, "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest", "log_level": 2})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    left, found = set(partitions), []
    end = time.monotonic() + 300
    while left:
        assert time.monotonic() < end, f"{topic} does not come to its end: {left}"
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            if message.error().code() == -191:  # the end of a partition
                left.discard(message.partition())
                continue
            raise SystemExit(f"{topic}: {message.error()}")
        found.append(message)
    consumer.close()
    return found


def oracle(records: list):
    """What one careful thread makes of the records."""
    accounts = {}
    for message in records:
        row = json.loads(message.value())
        n, total = accounts.get(row["account"], (0, 0))
        accounts[row["account"]] = (n + 1, total + row["amount"])
    return accounts


def trouble(rng: random.Random, cluster: Cluster, kilter: Kilter, done: threading.Event, faults: int) -> list[str]:
    """Things that go wrong, one after the other, some of them at once."""
    story = []
    for _ in range(faults):
        time.sleep(rng.uniform(0.2, 1.5))
        what = rng.choice(["kilter", "kilter", "kilter", "stop", "broker", "broker", "pause", "both", "freeze"])
        n = rng.randrange(cluster.brokers)
        story.append(what)
        if what in ("kilter", "both"):
            kilter.kill()
        if what == "stop":
            kilter.kill(signal.SIGTERM)
        if what in ("broker", "both"):
            cluster.kill(n)
        if what == "pause":
            cluster.pause(n)
            time.sleep(rng.uniform(0.5, 5))
            cluster.resume(n)
        if what == "freeze":  # a process that hangs, and wakes up believing that it is still in charge
            kilter.process.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.2, 3))
            kilter.process.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0, 1))
        if what in ("broker", "both"):
            cluster.start(n)
        if what in ("kilter", "both", "stop"):
            kilter.start()
        if what in ("broker", "both"):
            cluster.wait(n)
    done.wait()
    return story


def round_(options, number: int, seed: int, delivery: str, folder: pathlib.Path) -> str:
    rng = random.Random(seed)
    cluster = Cluster(folder / "kafka", options.cache, 3)
    port = free_port()
    kilter = Kilter(options.program, folder / "project", port)
    kilter.folder.mkdir(parents=True)
    (kilter.folder / "kilter.toml").write_text(PROJECT.format(port=port, brokers=cluster.addresses, delivery=delivery))
    try:
        cluster.start_all()
        admin = AdminClient({"bootstrap.servers": cluster.addresses, "log_level": 2})
        for future in admin.create_topics([NewTopic("transactions", PARTITIONS, 3)], operation_timeout=60, request_timeout=60).values():
            future.result()
        kilter.start()
        done = threading.Event()
        producer = threading.Thread(target=produce, args=(cluster.addresses, options.events, options.pace, seed, done), daemon=True)
        producer.start()
        story = trouble(rng, cluster, kilter, done, options.faults)
        wait(kilter, options.events, cluster)
        check(options, kilter, cluster, delivery)
        kilter.kill(signal.SIGTERM)
        return " ".join(story)
    except BaseException:
        print(f"the project and the brokers' logs are in {folder}", file=sys.stderr)
        options.keep = True
        raise
    finally:
        if kilter.process and kilter.process.poll() is None:
            kilter.kill()
        cluster.stop()


def wait(kilter: Kilter, events: int, cluster: Cluster):
    """Until everything is in and everything is out."""
    end = time.monotonic() + 300
    status = None
    while time.monotonic() < end:
        if kilter.process.poll() is not None:
            raise SystemExit(f"kilter has ended:\n{(kilter.folder / 'kilter.out').read_text()[-3000:]}")
        status = kilter.status()
        if status:
            source, sinks = status["sources"][0], status["sinks"]
            if source["events"] >= events and sinks and sinks[0]["next"] == sinks[0]["end"] and sinks[0]["end"] > events:
                return
        time.sleep(0.2)
    raise SystemExit(f"waited five minutes: {json.dumps(status and [status['sources'], status['sinks']])}\n"
                     f"{(kilter.folder / 'kilter.out').read_text()[-3000:]}")


def check(options, kilter: Kilter, cluster: Cluster, delivery: str):
    sent = read(cluster.addresses, "transactions", "read_committed")
    assert len(sent) == options.events, f"{len(sent)} transactions in the topic"
    status = kilter.status()
    source = status["sources"][0]
    assert source["events"] == options.events, f"{source['events']} of {options.events} events in the log"
    assert not source["turned_away"], source
    for account, (n, total) in oracle(sent).items():
        features = kilter.ask(f"/v1/features/account/{account}")["features"]
        assert (features["n"], features["sum"]) == (n, total), f"account {account}: {features}, not {n} and {total}"
    decided = read(cluster.addresses, "decisions", "read_committed")
    by_id = {}
    for message in decided:
        headers = {key: value.decode() for key, value in message.headers()}
        seen = by_id.setdefault(headers["ce_id"], message.value())
        assert seen == message.value(), f"{headers['ce_id']} came again and was another decision"
    assert len(by_id) == options.events, f"{len(by_id)} of {options.events} decisions in the topic"
    if delivery == "transactional":
        assert len(decided) == options.events, f"{len(decided) - options.events} decisions are there twice"
    # Every decision says what the log says.
    log = {}
    before = None
    while True:
        page = kilter.ask("/v1/decisions?limit=1000" + (f"&before={before}" if before is not None else ""))
        log.update((d["decision_id"], d["outcome"]) for d in page["decisions"])
        before = page["next"]
        if before is None:
            break
    told = {id: json.loads(value)["outcome"] for id, value in by_id.items()}
    assert told == log, "the topic and the decision log disagree"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("program")
    options.add_argument("--cache", type=pathlib.Path, required=True)
    options.add_argument("--rounds", type=int, default=2, help="half of them transactional")
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--events", type=int, default=60_000)
    options.add_argument("--pace", type=float, default=8_000, help="transactions a second")
    options.add_argument("--faults", type=int, default=6)
    options.add_argument("--keep", action="store_true", help="leave the folders of rounds behind")
    options = options.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    for number in range(options.rounds):
        seed = first + number
        delivery = ["transactional", "idempotent"][number % 2]
        folder = pathlib.Path(tempfile.mkdtemp(prefix="kilter-kafka-"))
        began = time.monotonic()
        try:
            story = round_(options, number, seed, delivery, folder)
        finally:
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
        print(f"round {number + 1}, --seed {seed}, {delivery}: {options.events} transactions, every one once; "
              f"{time.monotonic() - began:.0f} s: {story}", flush=True)


if __name__ == "__main__":
    main()
