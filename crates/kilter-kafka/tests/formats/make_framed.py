"""Makes `framed.json`: records as Confluent's own serializers frame them, and the schemas that they register, with a registry that is none (mock://).

    VENV/bin/pip install "confluent-kafka[avro,protobuf,json]==2.16.1" protobuf==7.36.2 grpcio-tools==1.85.1
    VENV/bin/python make_framed.py
"""

import datetime as dt
import importlib
import json
import pathlib
import sys
import tempfile

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
AT = dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc)
AVRO = {
    "type": "record", "name": "Payment", "namespace": "shop",
    "fields": [{"name": "card", "type": "long"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
               {"name": "amount", "type": "double"}, {"name": "note", "type": ["null", "string"]}],
}
JSON = {
    "title": "Payment", "type": "object",
    "properties": {"card": {"type": "integer"}, "at": {"type": "string"}, "amount": {"type": "number"}, "note": {"type": "string"}},
}


def compiled():
    with tempfile.TemporaryDirectory() as out:
        for file in ("money.proto", "shop.proto"):
            assert protoc.main(["protoc", f"-I{HERE}", f"--python_out={out}", f"-I{pathlib.Path(protoc.__file__).parent}/_proto", str(HERE / file)]) == 0
        sys.path.insert(0, out)
        return importlib.import_module("shop_pb2")


def main():
    shop = compiled()
    client = SchemaRegistryClient.new_client({"url": "mock://framed"})
    context = SerializationContext("payments", MessageField.VALUE)
    payment = shop.Payment(card=7, amount=2.5, note="x")
    payment.at.FromDatetime(AT)
    line = shop.Payment.Line(item="bolt", pieces=3)
    plain = {"use.deprecated.format": False}
    records = [
        ("avro", AvroSerializer(client, json.dumps(AVRO))({"card": 7, "at": AT, "amount": 2.5, "note": "x"}, context)),
        ("json_schema", JSONSerializer(json.dumps(JSON), client)({"card": 7, "at": "2026-03-01T00:00:00Z", "amount": 2.5, "note": "x"}, context)),
        ("protobuf", ProtobufSerializer(shop.Payment, client, plain)(payment, context)),
        ("protobuf", ProtobufSerializer(shop.Refund, client, plain)(shop.Refund(card=7), context)),
        ("protobuf", ProtobufSerializer(shop.Payment.Line, client, plain)(line, context)),
    ]
    answers = {}

    def answer(schema: Schema):
        references = [{"name": r.name, "subject": r.subject, "version": r.version} for r in schema.references or []]
        return {"schema": schema.schema_str, "schemaType": schema.schema_type, "references": references}

    for _, record in records:
        id = int.from_bytes(record[1:5], "big")
        answers[f"/schemas/ids/{id}"] = {"id": id, **answer(client.get_schema(id))}
    for subject in client.get_subjects():
        for version in client.get_versions(subject):
            answers[f"/subjects/{subject}/versions/{version}"] = {"version": version, **answer(client.get_version(subject, version).schema)}
    made = {"answers": answers, "records": [{"format": format, "hex": record.hex()} for format, record in records]}
    (HERE / "framed.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


main()
