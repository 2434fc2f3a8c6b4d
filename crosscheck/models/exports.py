"""Kilter's models score in LightGBM, XGBoost, ONNX Runtime and JPMML what they score here.

    exports.py PROGRAM [WORD]    WORD: only cases whose name holds it

Kilter learns, writes the model for another program, and 100 000 rows of the awkward sort (see check.py) are scored by both. In LightGBM and in ONNX
Runtime on one thread margins are equal to the bit, those of regression lines to the last digits. XGBoost must send rows of 32-bit numbers to the same
leaf of every tree; its sum, of 32 bits, has six digits. JPMML gives the same points, and the reasons that lose the most of them.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import lightgbm as lgb
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import xgboost as xgb
from check import COLUMNS, PROGRAM, ROWS, WORD, compare, kilter, probes, training_set

NAMES = [f"x{column}" for column in range(COLUMNS)]


def learn(learner, labels, folder):
    x, y = training_set()
    (folder / "rows").write_bytes(np.ascontiguousarray(np.column_stack([x, labels(y)]), "<f8").tobytes())
    subprocess.run([PROGRAM, "learn", json.dumps(learner), str(COLUMNS + 1), folder / "rows", folder / "own"], check=True, capture_output=True)


def thresholds(folder):
    lines = [line for line in (folder / "own.txt").read_text().splitlines() if line.startswith("threshold=")]
    return [float(word) for line in lines for word in line[10:].split()]


def finite(values):
    """As the next program takes them: no infinite numbers."""
    return [value for value in values if abs(value) < 3e38]


def by_lightgbm(name, folder):
    x = probes(thresholds(folder), [], False, True)
    # To LightGBM these are 0.
    x[np.abs(x) <= 1e-35] = 0.0
    booster = lgb.Booster(model_file=folder / "own.txt")
    contributions = lambda few: booster.predict(few, pred_contrib=True)
    compare(f"to lightgbm: {name}", folder / "own.kltm", x, booster.predict(x, raw_score=True), booster.predict(x), contributions)


def categories(name, parameters, folder):
    """Trees that ask for categories, which only LightGBM has lists for."""
    if WORD not in f"trees {name}":
        return
    columns = [6, 7]
    learn({"kind": "gbdt", "trees": 60, "early_stopping": None, "categorical": [NAMES[c] for c in columns], **parameters},
          lambda y: (y > 0).astype(float), folder)
    x = probes(thresholds(folder), columns, False, True)
    # To Kilter a number with a fraction is no category, LightGBM cuts it to one.
    x[:, columns] = np.trunc(x[:, columns])
    x[np.abs(x) <= 1e-35] = 0.0
    booster = lgb.Booster(model_file=folder / "own.txt")
    contributions = lambda few: booster.predict(few, pred_contrib=True)
    compare(f"to lightgbm: {name}", folder / "own.kltm", x, booster.predict(x, raw_score=True), booster.predict(x), contributions)


def leaves_of(folder):
    """For each tree, what each place of XGBoost's is worth in 64 bits: the leaves of LightGBM's text, met in the same order."""
    blocks = (folder / "own.txt").read_text().split("Tree=")[1:]
    trees = json.loads((folder / "own.json").read_text())["learner"]["gradient_booster"]["model"]["trees"]
    for block, tree in zip(blocks, trees, strict=True):
        lines = dict(line.split("=", 1) for line in block.split("\n\n")[0].splitlines()[1:])
        values = [float(word) for word in lines["leaf_value"].split()]
        below = [[int(word) for word in lines.get(side, "").split()] for side in ("left_child", "right_child")]
        worth, open_places = {}, [(0, 0 if below[0] else -1)]
        while open_places:
            place, node = open_places.pop()
            left, right = tree["left_children"][place], tree["right_children"][place]
            assert (left < 0) == (node < 0), "the trees differ in shape"
            if node < 0:
                worth[place] = values[~node]
            else:
                open_places += [(left, below[0][node]), (right, below[1][node])]
        yield worth


def by_xgboost(name, folder):
    x = probes(finite(thresholds(folder)), [], True, False).astype(np.float32)
    booster = xgb.Booster(model_file=folder / "own.json")
    rows = xgb.DMatrix(x, feature_names=NAMES)
    reached = booster.predict(rows, pred_leaf=True).astype(int).reshape(len(x), -1)
    sums = np.zeros(len(x))
    for column, worth in zip(reached.T, leaves_of(folder), strict=True):
        places, at = np.unique(column, return_inverse=True)
        sums += np.array([worth[place] for place in places])[at]
    mine = kilter("score", folder / "own.kltm", x.astype(float))
    differing = np.flatnonzero(mine[:, 0] != sums)
    if len(differing):
        sys.exit(f"to xgboost: {name}: {len(differing)} rows reach other leaves, such as {x[differing[0]].tolist()}")
    away = np.max(np.abs(booster.predict(rows, output_margin=True) - mine[:, 0]) / np.maximum(1.0, np.abs(mine[:, 0])))
    few = x[:300]
    theirs = booster.predict(xgb.DMatrix(few, feature_names=NAMES), pred_contribs=True)
    explained = np.max(np.abs(kilter("explain", folder / "own.kltm", few.astype(float))[:, 1:] - theirs[:, :-1]))
    if away > 1e-5 or explained > 1e-4 * max(1.0, np.max(np.abs(theirs))):
        sys.exit(f"to xgboost: {name}: margins differ by {away:.2g}, contributions by {explained:.2g}")
    print(f"{'to xgboost: ' + name:44} {len(x)} rows reach the same leaves; margins within {away:.1e}, contributions within {explained:.1e}", flush=True)


def by_onnxruntime(name, folder, known, exact):
    onnx.checker.check_model(folder / "own.onnx", full_check=True)
    x = probes(known, [], False, True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "own.onnx", options)
    margins, predictions = (column[:, 0] for column in session.run(["margin", "prediction"], {"X": x}))
    # One row takes another way than many.
    singly = np.concatenate([session.run(["margin"], {"X": row[None]})[0][:, 0] for row in x[:2000]])
    mine = kilter("score", folder / "own.kltm", x)
    scale = np.maximum(1.0, np.abs(mine[:, 0]))
    away = max(np.max(np.abs(margins - mine[:, 0]) / scale), np.max(np.abs(singly - mine[:2000, 0]) / scale[:2000]))
    if away > (0.0 if exact else 1e-12):
        sys.exit(f"to onnx: {name}: margins differ by {away:.2g}")
    # Where a line is 1e38 its probability is nought in one way or another.
    relative = np.max(np.abs(predictions - mine[:, 1]) / np.maximum(np.abs(mine[:, 1]), 1e-300 if exact else 1e-6))
    if relative > (1e-14 if exact else 1e-11):
        sys.exit(f"to onnx: {name}: predictions differ by {relative:.2g} of their size")
    width = "equal to the bit" if exact else f"within {away:.1e}"
    print(f"{'to onnx: ' + name:44} {len(x)} rows {width}; predictions within {relative:.1e}", flush=True)


def trees(name, parameters, folder, labels=lambda y: (y > 0).astype(float)):
    if WORD in f"trees {name}":
        learn({"kind": "gbdt", "trees": 60, "early_stopping": None, **parameters}, labels, folder)
        by_lightgbm(name, folder)
        by_xgboost(name, folder)
        by_onnxruntime(name, folder, thresholds(folder), True)


def forest(name, parameters, folder, labels=lambda y: (y > 0).astype(float)):
    if WORD in f"forest {name}":
        learn({"kind": "forest", "trees": 60, **parameters}, labels, folder)
        # Its thresholds are those of the file for ONNX.
        [node] = [node for node in onnx.load(folder / "own.onnx").graph.node if node.op_type == "TreeEnsemble"]
        [splits] = [attribute.t for attribute in node.attribute if attribute.name == "nodes_splits"]
        by_onnxruntime(f"forest, {name}", folder, onnx.numpy_helper.to_array(splits).tolist(), True)


def line(name, learner, folder, labels=lambda y: (y > 0).astype(float)):
    if WORD in f"line {name}":
        learn(learner, labels, folder)
        by_onnxruntime(name, folder, [0.0, 0.5, -3.0, 1e6], False)


def card(name, parameters, folder):
    if WORD not in f"card {name}":
        return
    if shutil.which("java") is None:
        print(f"SKIPPED: {name}: JPMML needs Java, and there is none")
        return
    from jpmml_evaluator import make_evaluator
    from jpmml_evaluator.jpype import JPypeBackend

    learn({"kind": "scorecard", "min_iv": 0.0, **parameters}, lambda y: (y > 0).astype(float), folder)
    cuts = [float(part.split('"')[0]) for part in (folder / "own.pmml").read_text().split(' value="')[1:]]
    x = probes(cuts, [], False, True)
    evaluator = make_evaluator(str(folder / "own.pmml"), backend=JPypeBackend())
    evaluator.verify()
    theirs = evaluator.evaluateAll(pd.DataFrame(x, columns=NAMES))
    mine = kilter("points", folder / "own.kltm", x)[:, 0]
    differing = np.flatnonzero(theirs["points"].to_numpy(float) != mine)
    if len(differing):
        sys.exit(f"to pmml: {name}: {len(differing)} rows get other points, such as {x[differing[0]].tolist()}")
    # Points are rounded, the contributions are not: a reason may stand where another loses at most one point more.
    lost = kilter("explain", folder / "own.kltm", x)[:, 1:] * parameters.get("pdo", 20.0) / np.log(2)
    for rank in range(min(4, theirs.shape[1] - 1)):
        reasons = theirs[f"reason_{rank + 1}"].to_numpy()
        given = np.array([reason is not None and reason == reason for reason in reasons])
        at = np.array([NAMES.index(reason) for reason in reasons[given]])
        best = -np.sort(-lost[given], axis=1)[:, rank]
        short = np.max(best - lost[given, at], initial=0.0)
        if short > 1.0:
            sys.exit(f"to pmml: {name}: reason {rank + 1} loses {short:.2g} points less than the one that belongs there")
    print(f"{'to pmml: ' + name:44} {len(x)} rows get the same points and reasons", flush=True)


def main():
    print(f"lightgbm {lgb.__version__}, xgboost {xgb.__version__}, onnxruntime {onnxruntime.__version__}; {ROWS} rows a case")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        count = lambda y: np.floor(np.exp(np.clip(y, -3, 3)))
        trees("binary", {}, folder)
        trees("binary, 255 leaves", {"leaves": 255, "min_leaf_rows": 3}, folder)
        trees("stumps, some without a split", {"leaves": 2, "min_gain": 2.0, "trees": 400}, folder)
        trees("oblivious, of samples", {"growth": "oblivious", "leaves": 64, "bagging_fraction": 0.5, "sampling": "mvs"}, folder)
        trees("a mean", {"objective": "squared_error"}, folder, lambda y: y)
        trees("counts", {"objective": "poisson"}, folder, count)
        categories("sets of categories", {"min_group_rows": 5}, folder)
        categories("mean labels of categories", {"max_cat_groups": 10}, folder)
        forest("classes", {}, folder)
        forest("means, thresholds at random", {"target": "mean", "thresholds": "random", "bootstrap": False}, folder, lambda y: y)
        line("logistic", {"kind": "logistic"}, folder)
        line("lasso", {"kind": "logistic", "l1": 300.0, "l2": 0.0}, folder)
        line("least squares", {"linear": {}}, folder, lambda y: y)
        card("a scorecard", {}, folder)
        card("a scorecard from the mean", {"reasons": "mean", "special": {"x2": [0.0], "x7": [3.0, 4.0]}, "pdo": 60.0}, folder)
    print("all exported models score the same")


main()
