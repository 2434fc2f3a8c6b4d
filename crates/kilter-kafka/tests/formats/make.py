"""Makes `cases.json`: records that fastavro and Google's protobuf wrote, and what they hold as JSON, worked out from the values before they were written.

    python3 -m venv VENV && VENV/bin/pip install fastavro==1.13.1 protobuf==7.36.2 grpcio-tools==1.85.1
    VENV/bin/python make.py

The same numbers at random each time, so that the file changes only with this one.
"""

import base64
import datetime as dt
import decimal
import importlib
import io
import json
import pathlib
import random
import struct
import sys
import tempfile
import uuid

import fastavro
from google.protobuf import struct_pb2
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
rng = random.Random(20261126)
UTC = dt.timezone.utc
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
names = 0


def name(stem):
    global names
    names += 1
    return f"{stem}{names}"


def b64(data):
    return base64.b64encode(data).decode()


def trimmed(text):
    return text.rstrip("0").rstrip(".") if "." in text else text


def moment(t, zone="Z"):
    return trimmed(t.strftime("%Y-%m-%dT%H:%M:%S.") + f"{t.microsecond:06}") + zone


def text():
    alphabet = 'abcXYZ 0129_-"\\/\n\té漢😀'
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(0, 12)))


def number(bits):
    return rng.choice([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), rng.randrange(-(2 ** (bits - 1)), 2 ** (bits - 1))])


def real():
    return rng.choice([0.0, 1.0, -2.5, 0.1, 1e300, 5e-324, rng.uniform(-1e6, 1e6)])


def single():
    return struct.unpack("<f", struct.pack("<f", rng.choice([0.0, 0.1, -1.5, 3.4e38, rng.uniform(-1e6, 1e6)])))[0]


def some_time():
    return EPOCH + dt.timedelta(microseconds=rng.randrange(-(10**15), 4 * 10**15))


def scaled(digits, scale):
    unscaled = rng.randrange(-(10**digits) + 1, 10**digits)
    value = decimal.Decimal(unscaled).scaleb(-scale, decimal.Context(prec=60))
    return value, float(value) if scale else unscaled


def leaf():
    """A schema of no parts, with a value and what it is as JSON."""
    kind = rng.choice(
        ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "fixed", "enum", "decimal", "decimal-fixed", "date",
         "time-millis", "time-micros", "timestamp-millis", "timestamp-micros", "local-timestamp-micros", "uuid", "debezium-date"]
    )
    if kind == "null":
        return "null", None, None
    if kind == "boolean":
        b = rng.random() < 0.5
        return "boolean", b, b
    if kind in ("int", "long"):
        n = number(32 if kind == "int" else 64)
        return kind, n, n
    if kind == "float":
        x = single()
        return "float", x, x
    if kind == "double":
        x = real()
        return "double", x, x
    if kind == "string":
        s = text()
        return "string", s, s
    if kind == "bytes":
        data = rng.randbytes(rng.randrange(0, 9))
        return "bytes", data, b64(data)
    if kind == "fixed":
        data = rng.randbytes(5)
        return {"type": "fixed", "name": name("F"), "size": 5}, data, b64(data)
    if kind == "enum":
        symbol = rng.choice(["A", "B", "C"])
        return {"type": "enum", "name": name("E"), "symbols": ["A", "B", "C"]}, symbol, symbol
    if kind == "decimal":
        value, shown = scaled(12, 3)
        return {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}, value, shown
    if kind == "decimal-fixed":
        value, shown = scaled(30, 0)
        return {"type": "fixed", "name": name("D"), "size": 16, "logicalType": "decimal", "precision": 30}, value, shown
    if kind == "date":
        day = some_time().date()
        return {"type": "int", "logicalType": "date"}, day, day.isoformat()
    if kind == "debezium-date":
        day = some_time().date()
        return {"type": "int", "connect.version": 1, "connect.name": "io.debezium.time.Date"}, (day - EPOCH.date()).days, day.isoformat()
    if kind in ("time-millis", "time-micros"):
        t = some_time()
        t = t.replace(microsecond=t.microsecond // 1000 * 1000) if kind == "time-millis" else t
        shown = trimmed(t.strftime("%H:%M:%S.") + f"{t.microsecond:06}")
        return {"type": "int" if kind == "time-millis" else "long", "logicalType": kind}, t.time(), shown
    if kind == "timestamp-millis":
        t = some_time()
        t = t.replace(microsecond=t.microsecond // 1000 * 1000)
        return {"type": "long", "logicalType": kind}, t, moment(t)
    if kind == "timestamp-micros":
        t = some_time()
        return {"type": "long", "logicalType": kind}, t, moment(t)
    if kind == "local-timestamp-micros":
        t = some_time().replace(tzinfo=None)
        return {"type": "long", "logicalType": kind}, t, moment(t, "")
    u = uuid.UUID(int=rng.getrandbits(128))
    return {"type": "string", "logicalType": "uuid"}, u, str(u)


def some(depth):
    kind = rng.choice(["leaf"] * 4 + ["record", "array", "map", "optional", "union"]) if depth else "leaf"
    if kind == "leaf":
        return leaf()
    if kind == "record":
        return record(depth - 1)
    if kind == "array":
        # All of one type: values of the same schema are made by making the schema's record again and again.
        items = [number(64) for _ in range(rng.randrange(0, 5))]
        return {"type": "array", "items": "long"}, items, items
    if kind == "map":
        schema, value, shown = some(depth - 1)
        n = rng.randrange(0, 3)
        return {"type": "map", "values": schema}, {f"k{i}": value for i in range(n)}, {f"k{i}": shown for i in range(n)}
    if kind == "optional":
        schema, value, shown = leaf()
        if schema == "null":
            return "null", None, None
        return (["null", schema], value, shown) if rng.random() < 0.7 else ([schema, "null"], None, None)
    branch, value = rng.choice([("string", text()), ("long", number(64)), ("boolean", True)])
    return ["null", "string", "long", "boolean"], (branch, value), value


def record(depth, fields=None):
    fields = rng.randrange(1, 6) if fields is None else fields
    parts = [(name("f"), *some(depth)) for _ in range(fields)]
    schema = {"type": "record", "name": name("R"), "fields": [{"name": n, "type": s} for n, s, _, _ in parts]}
    return schema, {n: v for n, _, v, _ in parts}, {n: shown for n, _, _, shown in parts}


def avro(title, schema, value, shown, **more):
    out = io.BytesIO()
    # A type that another schema brings is parsed with it for writing, and stands apart for reading.
    parsed = fastavro.parse_schema(more.pop("whole", schema))
    fastavro.schemaless_writer(out, parsed, value)
    return {"name": title, "format": "avro", "schema": json.dumps(schema), "record": out.getvalue().hex(), "json": shown, **more}


def debezium():
    row = {
        "type": "record", "name": "Value", "namespace": "db.public.accounts",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "owner", "type": ["null", "string"], "default": None},
            {"name": "opened", "type": {"type": "int", "connect.version": 1, "connect.name": "io.debezium.time.Date"}},
            {"name": "changed", "type": {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}},
            {"name": "balance", "type": ["null", {"type": "bytes", "scale": 2, "precision": 12, "connect.version": 1,
                                                  "connect.parameters": {"scale": "2"}, "connect.name": "org.apache.kafka.connect.data.Decimal",
                                                  "logicalType": "decimal"}], "default": None},
        ],
        "connect.name": "db.public.accounts.Value",
    }
    schema = {
        "type": "record", "name": "Envelope", "namespace": "db.public.accounts",
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql",
                                        "fields": [{"name": "ts_ms", "type": "long"}, {"name": "table", "type": "string"},
                                                   {"name": "lsn", "type": ["null", "long"], "default": None}]}},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"], "default": None},
        ],
        "connect.name": "db.public.accounts.Envelope",
    }
    at = dt.datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
    micros = (at - EPOCH) // dt.timedelta(microseconds=1)
    day = dt.date(2026, 1, 31)
    value = {"id": 7, "owner": "ada", "opened": (day - EPOCH.date()).days, "changed": micros, "balance": decimal.Decimal("12.50")}
    shown = {"id": 7, "owner": "ada", "opened": "2026-01-31", "changed": "2026-03-01T12:00:00.25Z", "balance": 12.5}
    source = {"ts_ms": micros // 1000, "table": "accounts", "lsn": None}
    after = {"before": None, "after": value, "source": source, "op": "c", "ts_ms": micros // 1000}
    gone = {"before": value, "after": None, "source": source, "op": "d", "ts_ms": micros // 1000}
    return [
        avro("debezium create", schema, after, {**after, "after": shown}),
        avro("debezium delete", schema, gone, {**gone, "before": shown}),
    ]


def avro_cases():
    cases = debezium()
    node = {"type": "record", "name": "Node", "namespace": "tree",
            "fields": [{"name": "n", "type": "int"}, {"name": "left", "type": ["null", "Node"]}, {"name": "right", "type": ["null", "tree.Node"]}]}
    tree = {"n": 1, "left": {"n": 2, "left": None, "right": {"n": 3, "left": None, "right": None}}, "right": None}
    cases.append(avro("a type that holds itself", node, tree, tree))
    address = {"type": "record", "name": "Address", "namespace": "shop", "fields": [{"name": "city", "type": "string"}]}
    order = {"type": "record", "name": "Order", "namespace": "shop", "fields": [{"name": "to", "type": "Address"}, {"name": "n", "type": "int"}]}
    whole = {**order, "fields": [{"name": "to", "type": address}, order["fields"][1]]}
    value = {"to": {"city": "Brno"}, "n": 3}
    cases.append(avro("a type of another schema", order, value, value, whole=whole, references=[["shop.Address", json.dumps(address)]]))
    cases.append(avro("a list of all kinds of blocks", {"type": "record", "name": "L", "fields": [{"name": "xs", "type": {"type": "array", "items": "int"}}]},
                      {"xs": list(range(3000))}, {"xs": list(range(3000))}))
    for i in range(150):
        cases.append(avro(f"at random {i}", *record(3)))
    return cases


def compiled():
    with tempfile.TemporaryDirectory() as out:
        for file in ("money.proto", "shop.proto"):
            assert protoc.main(["protoc", f"-I{HERE}", f"--python_out={out}", f"-I{pathlib.Path(protoc.__file__).parent}/_proto", str(HERE / file)]) == 0
        sys.path.insert(0, out)
        return importlib.import_module("shop_pb2")


def line(shop, depth=2):
    message = shop.Payment.Line(item=text(), pieces=rng.randrange(2**32))
    shown = {"item": message.item, "pieces": message.pieces, "part": None}
    if depth and rng.random() < 0.5:
        part, shown["part"] = line(shop, depth - 1)
        message.part.CopyFrom(part)
    return message, shown


def payment(shop):
    t = some_time()
    kinds = {0: "UNKNOWN", 1: "CARD", -2: "CASH", 9: 9}
    p = shop.Payment(card=number(64), amount=real(), online=rng.random() < 0.5, seal=rng.randbytes(4), rate=single(),
                     stamp=rng.randrange(2**64), shift=number(32))
    p.kind = rng.choice(list(kinds))
    p.kinds.extend(rng.choice(list(kinds)) for _ in range(3))
    shown = {"card": p.card, "at": None, "amount": p.amount, "note": None, "online": p.online, "kind": kinds[p.kind], "seal": b64(p.seal),
             "lines": [], "counts": {}, "by_number": {}, "price": None, "limit": None, "alias": None, "took": None, "more": None, "iban": None,
             "wallet": None, "rate": p.rate, "kinds": [kinds[k] for k in p.kinds], "stamp": p.stamp, "shift": p.shift}
    if rng.random() < 0.8:
        p.at.FromDatetime(t)
        shown["at"] = moment(t)
    if rng.random() < 0.5:
        p.note = shown["note"] = rng.choice(["", text()])
    for _ in range(rng.randrange(0, 3)):
        message, as_json = line(shop)
        p.lines.append(message)
        shown["lines"].append(as_json)
    for i in range(rng.randrange(0, 3)):
        p.counts[f"c{i}"] = shown["counts"][f"c{i}"] = number(32)
        message, as_json = line(shop)
        p.by_number[i - 1].CopyFrom(message)
        shown["by_number"][str(i - 1)] = as_json
    if rng.random() < 0.5:
        p.price.currency, p.price.units = "EUR", number(64)
        shown["price"] = {"currency": "EUR", "units": p.price.units, "nanos": 0}
    if rng.random() < 0.5:
        p.limit.value = shown["limit"] = rng.choice([0.0, real()])
        p.alias.value = shown["alias"] = text()
        p.took.FromTimedelta(dt.timedelta(seconds=3, microseconds=250000))
        shown["took"] = "3.250000000s"
        shown["more"] = {"a": 1.5, "b": [True, None, "x", {"c": {}}], "d": []}
        p.more.CopyFrom(struct_pb2.Struct())
        p.more.update(shown["more"])
    way = rng.randrange(3)
    if way == 1:
        p.iban = shown["iban"] = text()
    if way == 2:
        p.wallet = shown["wallet"] = rng.randrange(2**64)
    return p, shown


def protobuf_cases():
    shop = compiled()
    shared = {"format": "protobuf", "file": "shop.proto"}
    cases = [{"name": "nothing set", **shared, "message": "shop.Refund", "record": "", "json": {"card": 0, "of": None}}]
    for i in range(60):
        p, shown = payment(shop)
        cases.append({"name": f"at random {i}", **shared, "message": "shop.Payment", "record": p.SerializeToString(deterministic=True).hex(), "json": shown})
    return cases


cases = avro_cases() + protobuf_cases()
lines = ",\n".join(json.dumps(case, separators=(",", ":"), sort_keys=True) for case in cases)
(HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
print(len(cases), "cases")
