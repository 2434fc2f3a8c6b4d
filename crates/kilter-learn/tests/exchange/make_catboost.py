"""Makes the small CatBoost files beside it, and what CatBoost makes of some rows, with the version that is installed.

    python make_catboost.py    writes catboost-NAME.json and beside each a .rows.json: rows (null: missing) and their margins

What a file says beside its trees, features and loss is left out.
"""

import json
import pathlib

import numpy as np
from catboost import CatBoost, Pool

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(8)


def features(rows):
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[:, 1] = np.where(rng.random(rows) < 0.5, 0.0, x[:, 1])
    x[rng.random(x.shape) < 0.15] = np.nan
    return x


x, rows = features(2000), features(24)
signal = np.nan_to_num(x[:, 0]) + np.sin(2 * np.nan_to_num(x[:, 2])) - np.isnan(x[:, 3]) + rng.normal(size=len(x))
for name, label, parameters in [
    ("oblivious", signal > 0, {"loss_function": "Logloss", "iterations": 6, "depth": 2}),
    ("lossguide", signal > 0, {"loss_function": "Logloss", "iterations": 4, "grow_policy": "Lossguide", "max_leaves": 5, "nan_mode": "Max"}),
    ("counts", np.floor(np.exp(signal)), {"loss_function": "Poisson", "iterations": 3, "depth": 3}),
]:
    pool = Pool(x, label, feature_names=list("abcd"))
    model = CatBoost({"verbose": 0, "allow_writing_files": False, "thread_count": 1, **parameters}).fit(pool)
    path = here / f"catboost-{name}.json"
    model.save_model(path, format="json")
    told = json.loads(path.read_text())
    info = told["model_info"]
    told["model_info"] = {key: info[key] for key in ("catboost_version_info", "class_params") if key in info}
    told["model_info"]["params"] = {"loss_function": info["params"]["loss_function"]}
    path.write_text(json.dumps(told, separators=(",", ":")))
    listed = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    margins = model.predict(rows, prediction_type="RawFormulaVal", thread_count=1)
    (here / f"catboost-{name}.rows.json").write_text(json.dumps({"rows": listed, "margins": [float(m) for m in margins]}))
