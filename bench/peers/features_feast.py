"""Feast with Redis: 51 features of an account, computed elsewhere, pushed and read online in process. Feast aggregates nothing itself here.

`features_feast.py FOLDER REDIS_PORT PUSHED READS`: prints rows pushed a second and the latency of a read in microseconds.
"""

import json
import random
import sys
import time
from datetime import datetime, timedelta, timezone

import numpy
import pandas
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.types import Float64

FEATURES, BATCH = 51, 1000

folder, port, pushed, reads = sys.argv[1], *map(int, sys.argv[2:])
names = [f"f{i:02d}" for i in range(FEATURES)]


def rows(first, count):
    values = numpy.random.default_rng(first).normal(size=(count, FEATURES))
    frame = pandas.DataFrame(values, columns=names)
    frame["account_id"] = range(first, first + count)
    frame["at"] = datetime.now(timezone.utc)
    return frame


rows(0, 1).to_parquet(f"{folder}/features.parquet")  # the offline half that a definition must name
config = RepoConfig(project="bench", provider="local", registry=f"{folder}/registry.db", entity_key_serialization_version=3,
                    online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"})
store = FeatureStore(config=config)
account = Entity(name="account", join_keys=["account_id"], value_type=ValueType.INT64)
source = PushSource(name="computed", batch_source=FileSource(path=f"{folder}/features.parquet", timestamp_field="at"))
view = FeatureView(name="account", entities=[account], ttl=timedelta(days=30), source=source, schema=[Field(name=n, dtype=Float64) for n in names])
store.apply([account, view])
began = time.perf_counter()
for first in range(0, pushed, BATCH):
    store.push("computed", rows(first, BATCH), to=PushMode.ONLINE)
rate = pushed / (time.perf_counter() - began)
wanted = [f"account:{n}" for n in names]
micros = []
random.seed(7)
for i in range(reads + 50):
    key = random.randrange(pushed)
    start = time.perf_counter()
    answer = store.get_online_features(features=wanted, entity_rows=[{"account_id": key}])
    micros.append((time.perf_counter() - start) * 1e6)
values = answer.to_dict()
assert len(values) == FEATURES + 1 and all(v[0] is not None for v in values.values()), values
micros = sorted(micros[50:])
print(json.dumps({"pushed_per_second": rate, "p50_us": micros[len(micros) // 2], "p99_us": micros[len(micros) * 99 // 100]}))
