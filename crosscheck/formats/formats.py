"""What Confluent's serializers write with a real registry, Kilter reads: each record once, through changes of schemas and a registry that is away."""

import argparse
import datetime as dt
import decimal
import hashlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

from cluster import CENTRAL, Cluster, free_port, jars
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
VERSION = "3.0.9"
DIGEST = "2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43"
AT = dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc)
CARDS = 7
AVRO = {
    "type": "record", "name": "Payment", "namespace": "shop",
    "fields": [{"name": "card", "type": "int"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
               {"name": "cents", "type": ["null", "int"]}, {"name": "note", "type": "string"}],
}
# The card is a long, cents are a decimal, the note is gone, and there is a shop.
LATER = {
    "type": "record", "name": "Payment", "namespace": "shop",
    "fields": [{"name": "card", "type": "long"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
               {"name": "cents", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 0}},
               {"name": "shop", "type": ["null", "string"], "default": None}],
}
JSON = {
    "title": "Payment", "type": "object",
    "properties": {"card": {"type": "integer"}, "at": {"type": "string"}, "cents": {"type": "integer"}},
}
SOURCE = """
[source.{name}]
connector = "kafka"
topic = "{name}"
format = "{format}"
time = "at"
columns = {{ card = "int64", at = "timestamp", cents = "int64" }}
[features.by_{name}]
source = "{name}"
entity = "card"
columns = {{ n = "count(*) over lifetime", sum = "sum(cents) over lifetime" }}
"""
PROJECT = """
[project]
name = "shop"
[server]
listen = "127.0.0.1:{port}"
[kafka]
brokers = "{brokers}"
schema_registry = {{ url = "{registry}" }}
"""
FORMATS = {"payments_avro": "avro", "payments_json": "json_schema", "payments_proto": "protobuf"}


class Registry:
    def __init__(self, cache: pathlib.Path, folder: pathlib.Path):
        self.home, self.folder, self.port = unpacked(cache), folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self.process = None

    def start(self):
        command = ["java", "-Xmx400m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}",
                   f"-Dapicurio.datasource.url=jdbc:h2:file:{self.folder}/registry", "-jar", f"apicurio-registry-app-{VERSION}-runner.jar"]
        with open(self.folder / "registry.log", "ab") as out:
            self.process = subprocess.Popen(command, cwd=self.home, stdout=out, stderr=out)
        until("the registry", lambda: json.load(urllib.request.urlopen(f"{self.url}/subjects", timeout=2)) is not None, 180)

    def stop(self):
        if self.process is not None:
            # In order: its database writes a moment later, and a schema that is lost is unknown for good.
            self.process.terminate()
            self.process.wait(60)
        self.process = None


def unpacked(cache: pathlib.Path) -> pathlib.Path:
    """The registry's program, fetched and unpacked where it is not there yet."""
    home = cache / f"apicurio-{VERSION}"
    if not home.exists():
        address = f"{CENTRAL}/io/apicurio/apicurio-registry-app/{VERSION}/apicurio-registry-app-{VERSION}-all.tar.gz"
        with urllib.request.urlopen(address, timeout=600) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != DIGEST:
            raise SystemExit(f"{address} is not what it was")
        with tempfile.NamedTemporaryFile(dir=cache) as file:
            file.write(data)
            file.flush()
            part = home.with_suffix(".part")
            with tarfile.open(file.name) as tar:
                tar.extractall(part, filter="data")
            part.rename(home)
    return home


def until(what: str, holds, seconds: float = 120):
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def compiled(folder: pathlib.Path):
    for file in ("money.proto", "payment.proto"):
        assert protoc.main(["protoc", f"-I{HERE}", f"--python_out={folder}", f"-I{pathlib.Path(protoc.__file__).parent}/_proto", str(HERE / file)]) == 0
    sys.path.insert(0, str(folder))
    return importlib.import_module("payment_pb2"), importlib.import_module("money_pb2")


class Sender:
    """Sends numbered payments: card and cents follow from the number."""

    def __init__(self, brokers: str, registry: str, folder: pathlib.Path):
        self.producer = Producer({"bootstrap.servers": brokers})
        client = SchemaRegistryClient({"url": registry})
        self.payment, self.money = compiled(folder)
        self.avro = [AvroSerializer(client, json.dumps(schema)) for schema in (AVRO, LATER)]
        self.json = JSONSerializer(json.dumps(JSON), client)
        self.proto = ProtobufSerializer(self.payment.Payment, client, {"use.deprecated.format": False})
        self.sent = []

    def send(self, numbers: range, later: bool):
        for n in numbers:
            card, cents, at = n % CARDS, n * 3 % 1000, AT + dt.timedelta(milliseconds=n)
            row = {"card": card, "at": at, "cents": decimal.Decimal(cents) if later else cents, "note": "x", "shop": None}
            message = self.payment.Payment(card=card, cents=cents, amount=self.money.Amount(units=1, currency="EUR"))
            message.at.FromDatetime(at)
            self.put("payments_avro", self.avro[later], row)
            self.put("payments_json", self.json, {"card": card, "at": at.isoformat(), "cents": cents})
            self.put("payments_proto", self.proto, message)
            self.sent.append((card, cents))
        self.producer.flush()

    def put(self, topic: str, serializer, value):
        self.producer.produce(topic, serializer(value, SerializationContext(topic, MessageField.VALUE)))
        self.producer.poll(0)


class Kilter:
    def __init__(self, program: str, folder: pathlib.Path, brokers: str, registry: str):
        self.program, self.folder, self.port, self.process = program, folder, free_port(), None
        text = PROJECT.format(port=self.port, brokers=brokers, registry=registry)
        text += "".join(SOURCE.format(name=name, format=format) for name, format in FORMATS.items())
        folder.mkdir()
        (folder / "kilter.toml").write_text(text)

    def start(self):
        with open(self.folder / "kilter.out", "ab") as out:
            self.process = subprocess.Popen([self.program, "-C", str(self.folder), "up"], stdout=out, stderr=out)

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def ask(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def sources(self) -> dict:
        return {s["source"]: s for s in self.ask("/v1/status")["sources"]}

    def check(self) -> str:
        run = subprocess.run([self.program, "-C", str(self.folder), "check", "--quiet", "--connect"], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise SystemExit(f"kilter check --connect failed:\n{run.stdout}{run.stderr}")
        return run.stdout

    def holds(self, sent: list):
        try:
            until(f"{len(sent)} records of each topic", lambda: all(s["events"] >= len(sent) for s in self.sources().values()))
        except SystemExit as e:
            raise SystemExit(f"{e}: {json.dumps(self.sources())}") from e
        for name, source in self.sources().items():
            assert source["events"] == len(sent) and not source["turned_away"] and source["problem"] is None, (name, source)
            for card in range(CARDS):
                cents = [c for of, c in sent if of == card]
                features = self.ask(f"/v1/features/by_{name}/{card}")["features"]
                assert (features["n"], features["sum"]) == (len(cents), sum(cents)), (name, card, features)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kilter")
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--fetch", action="store_true", help="only fetch what is needed")
    options = parser.parse_args()
    if options.fetch:
        jars(options.cache / "kafka-jars")
        unpacked(options.cache)
        return
    with tempfile.TemporaryDirectory(prefix="kilter-formats-") as folder:
        folder = pathlib.Path(folder)
        cluster, registry = Cluster(folder / "kafka", options.cache, 1), Registry(options.cache, folder)
        kilter = None
        try:
            cluster.start_all()
            registry.start()
            admin = AdminClient({"bootstrap.servers": cluster.addresses})
            for made in admin.create_topics([NewTopic(name, 3, 1) for name in FORMATS]).values():
                made.result()
            kilter = Kilter(options.kilter, folder / "shop", cluster.addresses, registry.url)
            run(options, kilter, registry, Sender(cluster.addresses, registry.url, folder))
        except BaseException:
            if kilter is not None and (kilter.folder / "kilter.out").exists():
                print((kilter.folder / "kilter.out").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            if kilter is not None:
                kilter.kill()
            registry.stop()
            cluster.stop()


def run(options, kilter: Kilter, registry: Registry, sender: Sender):
    third = options.events // 3
    sender.send(range(third), later=False)
    found = kilter.check()
    assert all(f"{format} schema" in found for format in FORMATS.values()), found
    kilter.start()
    kilter.holds(sender.sent)
    assert not kilter.ask("/v1/alerts")["alerts"]
    sender.send(range(third, 2 * third), later=True)
    kilter.holds(sender.sent)
    told = [a["detail"] for a in kilter.ask("/v1/alerts?monitor=incoming%20schema")["alerts"]]
    assert len(told) == 1 and "removed: note (string)" in told[0] and "cents (int or null, now decimal(12, 0))" in told[0], told
    # What was written while the registry was there is read by a Kilter that begins while it is away, once it is back.
    kilter.kill()
    sender.send(range(2 * third, options.events), later=True)
    registry.stop()
    kilter.start()
    until("the reason why nothing is read", lambda: all(s["problem"] for s in kilter.sources().values()))
    assert all(registry.url in s["problem"] and not s["turned_away"] for s in kilter.sources().values())
    registry.start()
    kilter.holds(sender.sent)
    again = [a["detail"] for a in kilter.ask("/v1/alerts?monitor=incoming%20schema")["alerts"]]
    assert again == told, again
    print(f"{len(sender.sent)} records each of {', '.join(FORMATS.values())}: all once; a change of schema told once; a registry that was away waited for")


if __name__ == "__main__":
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "upb")
    main()
