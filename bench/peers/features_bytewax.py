"""Bytewax: a keyed stateful step whose state is tiles per window, of Kilter's own lengths (a minute, five minutes, six hours).

Its windowing operators fold each event into every sliding window that it lies in, hundreds of them here; tiles are what its users write
instead. Only the update is paid for: nothing is read from the tiles. Set b adds a set of merchants and logarithmic buckets to each tile.
"""

import math
import sys
from datetime import datetime

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

LEVELS = ((60, 3600), (300, 86_400), (21_600, 30 * 86_400))
LATENESS = 3600
LOG_GAMMA = math.log(1.01 / 0.99)


class Nowhere(DynamicSink):
    class Partition(StatelessSinkPartition):
        def write_batch(self, items):
            pass

    def build(self, step_id, worker_index, worker_count):
        return self.Partition()


def parse(line):
    event = orjson.loads(line)
    at = datetime.fromisoformat(event["at"]).timestamp()
    return str(event["account_id"]), (at, event["amount"], event["kind"] == "card", event["merchant"])


def fold(levels, event):
    at, amount, card, _ = event
    if levels is None:
        levels = ({}, {}, {})
    for tiles, (hop, window) in zip(levels, LEVELS):
        number = at // hop
        tile = tiles.get(number)
        if tile is None:
            add_tile(tiles, number, (at - window - LATENESS) // hop, [1, amount, amount, amount, at, amount, card, amount if card else 0.0])
            continue
        add(tile, at, amount, card)
    return levels, ()


def fold_with_sketches(levels, event):
    at, amount, card, merchant = event
    if levels is None:
        levels = ({}, {}, {})
    bucket = math.ceil(math.log(amount) / LOG_GAMMA)
    for tiles, (hop, window) in zip(levels, LEVELS):
        number = at // hop
        tile = tiles.get(number)
        if tile is None:
            tile = [1, amount, amount, amount, at, amount, card, amount if card else 0.0, {merchant}, {bucket: 1}]
            add_tile(tiles, number, (at - window - LATENESS) // hop, tile)
            continue
        add(tile, at, amount, card)
        tile[8].add(merchant)
        buckets = tile[9]
        buckets[bucket] = buckets.get(bucket, 0) + 1
    return levels, ()


def add(tile, at, amount, card):
    tile[0] += 1
    tile[1] += amount
    if amount < tile[2]:
        tile[2] = amount
    if amount > tile[3]:
        tile[3] = amount
    if at >= tile[4]:
        tile[4] = at
        tile[5] = amount
    if card:
        tile[6] += 1
        tile[7] += amount


def add_tile(tiles, number, bound, tile):
    tiles[number] = tile
    oldest = next(iter(tiles))
    while oldest < bound:
        del tiles[oldest]
        oldest = next(iter(tiles))


file, which = sys.argv[1:3]
flow = Dataflow("features")
lines = op.input("in", flow, FileSource(file, batch_size=1000))
events = op.map("parse", lines, parse)
op.output("out", op.stateful_flat_map("fold", events, fold_with_sketches if which == "b" else fold), Nowhere())
cluster_main(flow, [], 0)
