"""Models that converters and CatBoost have written score in Kilter what ONNX Runtime and CatBoost make of them.

    converted.py PROGRAM [WORD]    WORD: only cases whose name holds it

Trees: 100 000 rows of 32-bit numbers, random ones and every threshold with its neighbours, with missing values where the original takes them. ONNX
Runtime adds on one thread, and Kilter must find its sums to the bit; the probabilities that it makes of them in 32 bits agree within 4e-7. CatBoost
adds in an order of its own: margins agree within 1e-14 of their size. Lines agree within 1e-5, for their numbers are of 32 bits.
"""

import pathlib
import sys
import tempfile

import catboost
import lightgbm as lgb
import numpy as np
import onnx
import onnxmltools
import onnxruntime
import xgboost as xgb
from check import COLUMNS, WORD, kilter, probes, training_set
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# skl2onnx 1.20 hands NumPy's booleans to a version of onnx that takes none.
plain = onnx.helper.make_attribute


def make_attribute(key, value, *rest, **more):
    if isinstance(value, list):
        value = [int(item) if isinstance(item, (bool, np.bool_)) else item for item in value]
    return plain(key, value, *rest, **more)


onnx.helper.make_attribute = make_attribute


def ask(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: x})


def only(operators, model):
    [node] = [node for node in model.graph.node if node.op_type in operators]
    return node


def without_a_link(model):
    raw = onnx.ModelProto.FromString(model.SerializeToString())
    for node in raw.graph.node:
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"NONE"
    return raw


def column(answers, classes):
    found = answers[1] if classes else answers[0]
    return np.array([row[1] for row in found] if classes else found, dtype=np.float32).reshape(-1)


def trees(name, make, folder, gaps):
    if WORD not in f"onnx {name}":
        return
    model = make()
    node = only(["TreeEnsembleClassifier", "TreeEnsembleRegressor"], model)
    [thresholds] = [attribute.floats for attribute in node.attribute if attribute.name == "nodes_values"]
    x = probes([value for value in thresholds if abs(value) < 3e38], [], True, False).astype(np.float32)
    if not gaps:
        x = np.nan_to_num(x, nan=0.25)
    classes = "Classifier" in node.op_type
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    mine = kilter("score", path, x.astype(float))
    sums = column(ask(without_a_link(model), x), classes)
    differing = np.flatnonzero(mine[:, 0].astype(np.float32) != sums)
    if len(differing) or not np.array_equal(mine[:, 0], sums.astype(float)):
        sys.exit(f"onnx {name}: {len(differing)} of {len(x)} sums differ")
    predictions = column(ask(model, x), classes)
    away = np.max(np.abs(mine[:, 1] - predictions) / np.maximum(1.0, np.abs(predictions)))
    if away > 4e-7:
        sys.exit(f"onnx {name}: predictions differ by {away:.2g}")
    print(f"{'onnx ' + name:44} {len(x)} rows equal to the bit; predictions within {away:.1e}", flush=True)


def line(name, make, folder, gaps=False):
    if WORD not in f"onnx {name}":
        return
    model = make()
    x, _ = training_set()
    x = x.astype(np.float32) if gaps else np.nan_to_num(x.astype(np.float32), nan=0.25)
    classes = "LinearClassifier" in [node.op_type for node in model.graph.node]
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    mine = kilter("score", path, x.astype(float))[:, 1]
    theirs = column(ask(model, x), classes)
    away = np.max(np.abs(mine - theirs) / np.maximum(1.0, np.abs(theirs)))
    if away > 1e-5:
        sys.exit(f"onnx {name}: predictions differ by {away:.2g}")
    print(f"{'onnx ' + name:44} {len(x)} rows within {away:.1e}", flush=True)


def of_catboost(name, parameters, folder, label=lambda y: (y > 0).astype(float)):
    if WORD not in f"catboost {name}":
        return
    x, y = training_set()
    model = catboost.CatBoost({"iterations": 60, "verbose": 0, "allow_writing_files": False, "thread_count": 1, **parameters})
    model.fit(x.astype(np.float32), label(y))
    path = folder / "model.json"
    model.save_model(str(path), format="json")
    borders = [border for borders in model.get_borders().values() for border in borders if abs(border) < 3e38]
    x = probes(borders, [], True, True).astype(np.float32)
    margins = model.predict(x, prediction_type="RawFormulaVal", thread_count=1)
    mine = kilter("score", path, x.astype(float))[:, 0]
    away = np.max(np.abs(mine - margins) / np.maximum(1.0, np.abs(margins)))
    if away > 1e-14:
        sys.exit(f"catboost {name}: margins differ by {away:.2g}")
    print(f"{'catboost ' + name:44} {len(x)} rows within {away:.1e}, {np.mean(mine == margins):.0%} of them to the bit", flush=True)


def main():
    print(f"skl2onnx and onnxmltools by onnxruntime {onnxruntime.__version__}, catboost {catboost.__version__}")
    x, y = training_set()
    gappy, z = x.astype(np.float32), (y > 0).astype(int)
    full = np.nan_to_num(gappy, nan=0.25)
    columns = [("x", FloatTensorType([None, COLUMNS]))]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        plain = lambda model, y: lambda: to_onnx(model.fit(full, y), full[:1], options={"zipmap": False} if hasattr(model, "predict_proba") else None)
        gaps = lambda model, y: lambda: to_onnx(model.fit(gappy, y), full[:1])
        for forest in [RandomForestClassifier, ExtraTreesClassifier]:
            trees(forest.__name__, plain(forest(40, min_samples_leaf=5, random_state=0), z), folder, False)
        for forest in [RandomForestRegressor, ExtraTreesRegressor]:
            trees(forest.__name__, plain(forest(20, min_samples_leaf=5, random_state=0), y), folder, False)
        trees("GradientBoostingClassifier", plain(GradientBoostingClassifier(n_estimators=60), z), folder, False)
        trees("GradientBoostingRegressor", plain(GradientBoostingRegressor(n_estimators=60), y), folder, False)
        trees("HistGradientBoostingClassifier", gaps(HistGradientBoostingClassifier(max_iter=60), z), folder, True)
        trees("HistGradientBoostingRegressor", gaps(HistGradientBoostingRegressor(max_iter=60), y), folder, True)
        by_lightgbm = lgb.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1)
        convert = lambda: onnxmltools.convert_lightgbm(by_lightgbm.fit(gappy, z), initial_types=columns, target_opset=15)
        trees("LightGBM", convert, folder, True)
        by_xgboost = xgb.XGBClassifier(n_estimators=60, max_depth=5, n_jobs=1)
        convert = lambda: onnxmltools.convert_xgboost(by_xgboost.fit(gappy, z), initial_types=columns, target_opset=15)
        trees("XGBoost", convert, folder, True)
        line("LogisticRegression", plain(LogisticRegression(max_iter=5000), z), folder)
        filled = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
        line("LogisticRegression, filled and scaled", gaps(filled, z), folder, gaps=True)
        for regression in [LinearRegression(), Ridge(), ElasticNet(alpha=0.01)]:
            line(type(regression).__name__, plain(make_pipeline(StandardScaler(), regression), y), folder)
        of_catboost("Logloss", {"loss_function": "Logloss"}, folder)
        of_catboost("Logloss, deep", {"loss_function": "Logloss", "depth": 10}, folder)
        of_catboost("Logloss, missing values greatest", {"loss_function": "Logloss", "nan_mode": "Max"}, folder)
        of_catboost("Logloss, Lossguide", {"loss_function": "Logloss", "grow_policy": "Lossguide", "max_leaves": 31}, folder)
        of_catboost("Logloss, Depthwise", {"loss_function": "Logloss", "grow_policy": "Depthwise"}, folder)
        of_catboost("RMSE", {"loss_function": "RMSE"}, folder, lambda y: y)
        of_catboost("MAE", {"loss_function": "MAE"}, folder, lambda y: y)
        of_catboost("Poisson", {"loss_function": "Poisson"}, folder, lambda y: np.floor(np.exp(np.clip(y, -3, 3))))
    print("all converted models score the same")


main()
