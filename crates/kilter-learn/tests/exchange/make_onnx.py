"""Makes the small ONNX files beside it, and what ONNX Runtime makes of some rows.

    python make_onnx.py    writes onnx-NAME.onnx and beside each a .rows.json: rows (null: missing), the sums of leaves or terms ("margins")
                           and the predictions, both as ONNX Runtime has them on one thread

Made with scikit-learn 1.9.1, skl2onnx 1.20.0, onnxmltools 1.16.0, LightGBM 4.7.0, XGBoost 3.2.0, onnxruntime 1.32.0. The tests read the files and ask
for the sums of trees to the last bit.
"""

import json
import pathlib

import lightgbm as lgb
import numpy as np
import onnx
import onnxmltools
import onnxruntime
import pandas as pd
import xgboost as xgb
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(6)

# skl2onnx 1.20 hands NumPy's booleans to a version of onnx that takes none.
plain = onnx.helper.make_attribute


def make_attribute(key, value, *rest, **more):
    if isinstance(value, list):
        value = [int(item) if isinstance(item, (bool, np.bool_)) else item for item in value]
    return plain(key, value, *rest, **more)


onnx.helper.make_attribute = make_attribute


def features(rows, gaps):
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[:, 1] = np.where(rng.random(rows) < 0.5, 0.0, x[:, 1])
    if gaps:
        x[rng.random(x.shape) < 0.15] = np.nan
    return x


def answers(model, feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feed)


def write(name, model, x, names=None):
    """The file, and of each row the sum before the link, and the prediction."""
    kind = np.float64 if model.graph.input[0].type.tensor_type.elem_type == 11 else np.float32
    feed = {names[at]: x[:, [at]] for at in range(4)} if names else {model.graph.input[0].name: x.astype(kind)}
    [node] = [node for node in model.graph.node if "Tree" in node.op_type or "Linear" in node.op_type]
    classes = "Classifier" in node.op_type

    def scores(told):
        out = told[1] if classes else told[0]
        return [row[1] for row in out] if classes else [float(row[0]) for row in out]

    predictions = scores(answers(model, feed))
    raw = onnx.ModelProto.FromString(model.SerializeToString())
    for node in raw.graph.node:
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"NONE"
    margins = scores(answers(raw, feed))
    (here / f"onnx-{name}.onnx").write_bytes(model.SerializeToString())
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in x]
    told = {"rows": rows, "margins": [float(m) for m in margins], "predictions": [float(p) for p in predictions]}
    (here / f"onnx-{name}.rows.json").write_text(json.dumps(told))


full, gappy = features(2000, False), features(2000, True)
label = lambda x: (np.nan_to_num(x[:, 0]) + np.sin(2 * np.nan_to_num(x[:, 2])) - np.isnan(x[:, 3]) + rng.normal(size=len(x)) > 0).astype(int)
y, z = label(full), label(gappy)
few, holes = features(24, False), features(24, True)
write("forest", to_onnx(RandomForestClassifier(5, max_depth=3, random_state=1).fit(full, y), full[:1]), few)
write("boosting", to_onnx(GradientBoostingClassifier(n_estimators=5, max_depth=2).fit(full, y), full[:1], options={"zipmap": False}), few)
write("histogram", to_onnx(HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=5).fit(gappy, z), gappy[:1]), holes)
amounts = 10 * full[:, 0] + rng.normal(size=len(full))
forest = RandomForestRegressor(5, max_depth=3, random_state=1).fit(full, amounts)
write("mean", to_onnx(forest, full[:1]), few)
# The same trees over rows of 64 bits, some of them beside a threshold.
wide = to_onnx(forest, full[:1])
wide.graph.input[0].type.tensor_type.elem_type = 11
[thresholds] = [a.floats for a in wide.graph.node[0].attribute if a.name == "nodes_values"]
near = few.astype(float)
near[:, 0] = [np.nextafter(float(thresholds[at % 7]), [-9, 9][at % 2]) for at in range(24)]
write("doubles", wide, near)
columns = [("x", FloatTensorType([None, 4]))]
theirs = lgb.LGBMClassifier(n_estimators=4, num_leaves=5, verbose=-1).fit(gappy, z)
write("lightgbm", onnxmltools.convert_lightgbm(theirs, initial_types=columns, target_opset=15), holes)
theirs = xgb.XGBClassifier(n_estimators=4, max_depth=2).fit(gappy, z)
write("xgboost", onnxmltools.convert_xgboost(theirs, initial_types=columns, target_opset=15), holes)
frame = pd.DataFrame(gappy, columns=list("abcd"))
line = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(frame, z)
write("logistic", to_onnx(line, frame[:1]), holes, list("abcd"))
write("least-squares", to_onnx(LinearRegression().fit(full, amounts), full[:1]), few)
