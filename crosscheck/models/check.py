"""Models from elsewhere score in Kilter what they score at home, to the last bit, and Kilter's boosted trees in LightGBM what they score here.

    check.py PROGRAM [WORD]    WORD: only cases whose name holds it

Each case trains a model, saves it, and scores 100 000 rows here and there: random ones, and ones with missing values, zeros of both signs, tiny
numbers, every threshold of the model and its neighbours, and known, unknown and odd categories; for LightGBM also infinities, which XGBoost refuses.
Predictions may differ by a few units in the last place of the width the other program computes them in; contributions by 1e-5 of the largest.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import lightgbm as lgb
import numpy as np
import xgboost as xgb

ROWS = 100_000
COLUMNS = 8
CATEGORICAL = [6, 7]
PROGRAM = sys.argv[1]
WORD = sys.argv[2] if len(sys.argv) > 2 else ""
rng = np.random.default_rng(20)


def features(rows):
    x = rng.normal(size=(rows, COLUMNS))
    x[:, 2] = np.where(rng.random(rows) < 0.5, 0.0, x[:, 2])
    x[:, 3] = np.round(x[:, 3] * 3)
    x[:, 4] = np.exp(10 * x[:, 4])
    x[:, 6] = rng.integers(0, 90, rows)
    x[:, 7] = rng.integers(0, 5, rows)
    x[:, :6][rng.random((rows, 6)) < 0.08] = np.nan
    return x


def training_set():
    x = features(20_000)
    signal = np.nan_to_num(x[:, 0]) + np.sin(x[:, 6]) + (x[:, 7] == 3) - np.isnan(x[:, 1]) + (x[:, 2] == 0) * np.nan_to_num(x[:, 3])
    return x, signal + rng.normal(size=len(signal))


def probes(thresholds, categorical, single, infinite):
    """Random rows, a third of whose values are of the awkward sort."""
    x = features(ROWS)
    odd = [np.nan, 0.0, -0.0, 1e-36, -1e-36, 1e-35, -1e-35, 1e-34, 3e38, -3e38] + ([np.inf, -np.inf] if infinite else [])
    known = np.array(sorted(set(thresholds))) if len(thresholds) else np.zeros(1)
    if single:
        known = known.astype(np.float32)
    near = np.concatenate([known, np.nextafter(known, known.dtype.type(np.inf)), np.nextafter(known, known.dtype.type(-np.inf))]).astype(float)
    for column in range(COLUMNS):
        at = rng.random(ROWS) < 0.35
        if column in categorical:
            pool = [np.nan, -1, -0.5, -0.0, 2.9, 31, 32, 63, 64, 95, 96, 200, 1e6, 16777216, 3e9]
        else:
            pool = np.concatenate([np.tile(odd, max(1, len(near) // len(odd))), near])
        x[at, column] = rng.choice(pool, at.sum())
    return x


def kilter(task, model, x):
    with tempfile.TemporaryDirectory() as folder:
        rows, out = pathlib.Path(folder, "rows"), pathlib.Path(folder, "out")
        rows.write_bytes(np.ascontiguousarray(x, "<f8").tobytes())
        subprocess.run([PROGRAM, task, model, rows, out], check=True)
        return np.frombuffer(out.read_bytes(), "<f8").reshape(len(x), -1)


def compare(name, model, x, margins, probabilities, contributions):
    mine = kilter("score", model, x)
    differing = np.flatnonzero(mine[:, 0] != margins)
    if len(differing):
        row = differing[0]
        sys.exit(f"{name}: {len(differing)} of {len(x)} margins differ; row {row}: {mine[row, 0]!r}, there {margins[row]!r}: {x[row].tolist()}")
    width = 3e-7 if probabilities.dtype == np.float32 else 1e-15
    worst = np.max(np.abs(mine[:, 1] - probabilities) / np.maximum(np.abs(probabilities), 1e-30), initial=0.0)
    # Far out in the tail the widths' smallest numbers end earlier.
    if worst > 40 * width:
        sys.exit(f"{name}: predictions differ by {worst:.2g} of their size")
    few = x[:300]
    explained = kilter("explain", model, few)
    if contributions is None:
        away = np.max(np.abs(explained.sum(axis=1) - margins[:300]))
    else:
        theirs = contributions(few)
        away = np.max(np.abs(explained[:, 1:] - theirs[:, :-1])) / max(1.0, np.max(np.abs(theirs)))
    if away > 1e-5:
        sys.exit(f"{name}: contributions differ by {away:.2g}")
    print(f"{name:44} {len(x)} rows equal to the bit; predictions within {worst:.1e}, contributions within {away:.1e}", flush=True)


def lightgbm_case(name, parameters, folder, label=lambda y: (y > 0).astype(float), categorical=CATEGORICAL, rounds=60):
    if WORD not in f"lightgbm {name}":
        return
    x, y = training_set()
    parameters = {"verbose": -1, "num_threads": 1, "seed": 3, **parameters}
    data = lgb.Dataset(x, label(y), categorical_feature=categorical, params={"verbose": -1})
    booster = lgb.train(parameters, data, rounds)
    path = folder / "model.txt"
    booster.save_model(path)
    lines = [line for line in path.read_text().splitlines() if line.startswith("threshold=")]
    thresholds = [float(word) for line in lines for word in line[10:].split()]
    x = probes(thresholds, categorical, False, True)
    slope = parameters.get("sigmoid", 1.0)
    # The raw scores of a random forest are sums; what becomes of them is their mean.
    margins = booster.predict(x, raw_score=True) * slope / (rounds if name == "rf" else 1)
    contributions = None if slope != 1.0 or "rf" in name else lambda few: booster.predict(few, pred_contrib=True)
    compare(f"lightgbm {name}", path, x, margins, booster.predict(x), contributions)


def xgboost_case(name, parameters, folder, label=lambda y: (y > 0).astype(float), categorical=CATEGORICAL, rounds=60):
    if WORD not in f"xgboost {name}":
        return
    x, y = training_set()
    kinds = ["c" if column in categorical else "q" for column in range(COLUMNS)]
    parameters = {"nthread": 1, "seed": 3, "tree_method": "hist", **parameters}
    data = xgb.DMatrix(x, label(y), feature_types=kinds, enable_categorical=True)
    booster = xgb.train(parameters, data, rounds)
    booster.save_model(folder / "model.json")
    trees = json.loads((folder / "model.json").read_text())["learner"]["gradient_booster"]["model"]["trees"]
    thresholds = [t for tree in trees for t, left, kind in zip(tree["split_conditions"], tree["left_children"], tree["split_type"]) if left >= 0 and kind == 0]
    x = probes(thresholds, categorical, True, False)
    for column in categorical:
        # Here XGBoost refuses what is below 0 or no category of its own.
        x[x[:, column] < 0, column] = np.nan
    rows = xgb.DMatrix(x, feature_types=kinds, enable_categorical=True)
    margins = booster.predict(rows, output_margin=True)
    for ending in ["json", "ubj"]:
        path = folder / f"model.{ending}"
        booster.save_model(path)

        def contributions(few):
            return booster.predict(xgb.DMatrix(few, feature_types=kinds, enable_categorical=True), pred_contribs=True)

        # `logitraw` hands out margins for predictions; Kilter gives their probability.
        predictions = 1 / (1 + np.exp(-margins)) if name == "binary:logitraw" else booster.predict(rows)
        compare(f"xgboost {ending} {name}", path, x, margins.astype(float), predictions, contributions)


def exported_case(name, parameters, folder, label=lambda y: (y > 0).astype(float)):
    """Trees that Kilter has grown, as LightGBM loads them."""
    if WORD not in f"exported {name}":
        return
    x, y = training_set()
    (folder / "rows").write_bytes(np.ascontiguousarray(np.column_stack([x, label(y)]), "<f8").tobytes())
    parameters = json.dumps({"trees": 60, "early_stopping": None, **parameters})
    subprocess.run([PROGRAM, "grow", parameters, str(COLUMNS + 1), folder / "rows", folder / "grown"], check=True)
    text = (folder / "grown.txt").read_text()
    thresholds = [float(word) for line in text.splitlines() if line.startswith("threshold=") for word in line[10:].split()]
    categorical = [int(name[1:]) for name in json.loads(parameters).get("categorical", [])]
    x = probes(thresholds, categorical, False, True)
    # To Kilter a number with a fraction is no category, LightGBM cuts it to one.
    x[:, categorical] = np.trunc(x[:, categorical])
    # To LightGBM these are 0.
    x[np.abs(x) <= 1e-35] = 0.0
    booster = lgb.Booster(model_file=folder / "grown.txt")
    contributions = lambda few: booster.predict(few, pred_contrib=True)
    compare(f"exported {name}", folder / "grown.kltm", x, booster.predict(x, raw_score=True), booster.predict(x), contributions)


def main():
    print(f"lightgbm {lgb.__version__}, xgboost {xgb.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        count = lambda y: np.floor(np.exp(np.clip(y, -3, 3)))
        positive = lambda y: np.exp(np.clip(y, -3, 3))
        lightgbm_case("binary", {"objective": "binary"}, folder)
        lightgbm_case("binary, 255 leaves, deep", {"objective": "binary", "num_leaves": 255, "min_data_in_leaf": 3}, folder)
        lightgbm_case("binary, zeros are missing", {"objective": "binary", "zero_as_missing": True}, folder)
        lightgbm_case("binary, nothing is missing", {"objective": "binary", "use_missing": False}, folder)
        lightgbm_case("binary, slope 0.7", {"objective": "binary", "sigmoid": 0.7}, folder)
        lightgbm_case("binary, many categories", {"objective": "binary", "max_cat_to_onehot": 1, "min_data_per_group": 5, "cat_smooth": 1}, folder)
        lightgbm_case("rf", {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, folder)
        lightgbm_case("dart", {"objective": "binary", "boosting": "dart"}, folder)
        lightgbm_case("cross_entropy", {"objective": "cross_entropy"}, folder, lambda y: 1 / (1 + np.exp(-y)))
        lightgbm_case("one leaf a tree", {"objective": "binary", "min_data_in_leaf": 15_000}, folder, rounds=3)
        for objective in ["regression", "regression_l1", "huber", "quantile", "mape"]:
            lightgbm_case(objective, {"objective": objective}, folder, lambda y: y)
        for objective, label in [("poisson", count), ("gamma", positive), ("tweedie", count)]:
            lightgbm_case(objective, {"objective": objective}, folder, label)
        xgboost_case("binary:logistic", {"objective": "binary:logistic"}, folder)
        xgboost_case("binary:logistic, no categories", {"objective": "binary:logistic", "max_depth": 9}, folder, categorical=[])
        xgboost_case("binary:logistic, 255 leaves", {"objective": "binary:logistic", "grow_policy": "lossguide", "max_leaves": 255, "max_depth": 0}, folder)
        xgboost_case("binary:logistic, one-hot", {"objective": "binary:logistic", "max_cat_to_onehot": 100}, folder)
        xgboost_case("binary:logistic, base score 0.1", {"objective": "binary:logistic", "base_score": 0.1, "num_parallel_tree": 3}, folder)
        xgboost_case("binary:logitraw", {"objective": "binary:logitraw"}, folder)
        xgboost_case("reg:logistic", {"objective": "reg:logistic"}, folder, lambda y: 1 / (1 + np.exp(-y)))
        for objective in ["reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror"]:
            xgboost_case(objective, {"objective": objective}, folder, lambda y: y)
        for objective, label in [("count:poisson", count), ("reg:gamma", positive), ("reg:tweedie", count)]:
            xgboost_case(objective, {"objective": objective}, folder, label)
        exported_case("binary", {}, folder)
        exported_case("binary, 255 leaves", {"leaves": 255, "min_leaf_rows": 3}, folder)
        exported_case("stumps, some without a split", {"leaves": 2, "min_gain": 2.0, "trees": 400}, folder)
        exported_case("sets of categories", {"categorical": ["x6", "x7"], "min_group_rows": 5}, folder)
        exported_case("mean labels of categories", {"categorical": ["x6", "x7"], "max_cat_groups": 10}, folder)
        exported_case("a mean", {"objective": "squared_error"}, folder, lambda y: y)
        exported_case("counts", {"objective": "poisson"}, folder, count)
    print("all models score the same")


main()
