"""Makes the small model files beside it, and what their programs make of some rows, with the versions that are installed.

    python make.py    writes lightgbm-VERSION.txt, xgboost-VERSION.json and .ubj, and beside each a .rows.json:
                      rows (null: missing) and their margins

Run once for each pair of versions, in a virtual environment of its own. The tests read the files and ask for the margins to the last bit.
"""

import json
import pathlib

import lightgbm as lgb
import numpy as np
import xgboost as xgb

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(5)


def features(rows):
    x = rng.normal(size=(rows, 4))
    x[:, 1] = np.where(rng.random(rows) < 0.5, 0.0, x[:, 1])
    x[:, 3] = rng.integers(0, 40, rows)
    x[:, :3][rng.random((rows, 3)) < 0.15] = np.nan
    return x


def write(path, rows, margins):
    listed = [[None if np.isnan(v) else float(v) for v in row] for row in rows]
    path.write_text(json.dumps({"rows": listed, "margins": [float(m) for m in margins]}))


x = features(2000)
y = (np.nan_to_num(x[:, 0]) + np.sin(x[:, 3]) - np.isnan(x[:, 2]) + rng.normal(size=len(x)) > 0).astype(float)
rows = features(24)

parameters = {"objective": "binary", "num_leaves": 6, "verbose": -1, "num_threads": 1, "max_cat_to_onehot": 1}
booster = lgb.train(parameters, lgb.Dataset(x, y, categorical_feature=[3], params={"verbose": -1}), 3)
path = here / f"lightgbm-{lgb.__version__}.txt"
booster.save_model(path)
# The parameters that follow the trees are no part of what is read.
path.write_text(path.read_text().split("\nparameters:")[0] + "\n")
write(path.with_suffix(".rows.json"), rows, booster.predict(rows, raw_score=True))

kinds = ["q", "q", "q", "c"]
data = xgb.DMatrix(x, y, feature_names=list("abcd"), feature_types=kinds, enable_categorical=True)
parameters = {"objective": "binary:logistic", "max_depth": 3, "tree_method": "hist", "nthread": 1, "max_cat_to_onehot": 1, "base_score": 0.4}
booster = xgb.train(parameters, data, 3)
margins = booster.predict(xgb.DMatrix(rows, feature_names=list("abcd"), feature_types=kinds, enable_categorical=True), output_margin=True)
for ending in ["json", "ubj"]:
    booster.save_model(here / f"xgboost-{xgb.__version__}.{ending}")
write(here / f"xgboost-{xgb.__version__}.rows.json", rows, margins)

# Three classes; a row's margins follow each other.
label = np.digitize(np.nan_to_num(x[:, 0]) + np.sin(x[:, 3]) + rng.normal(size=len(x)), [-0.7, 0.7])
for objective in ["multiclass", "multiclassova"]:
    parameters = {"objective": objective, "num_class": 3, "num_leaves": 5, "verbose": -1, "num_threads": 1, "max_cat_to_onehot": 1}
    booster = lgb.train(parameters, lgb.Dataset(x, label, categorical_feature=[3], params={"verbose": -1}), 2)
    path = here / f"lightgbm-{lgb.__version__}-{objective}.txt"
    booster.save_model(path)
    path.write_text(path.read_text().split("\nparameters:")[0] + "\n")
    write(path.with_suffix(".rows.json"), rows, booster.predict(rows, raw_score=True).ravel())
data = xgb.DMatrix(x, label, feature_names=list("abcd"), feature_types=kinds, enable_categorical=True)
parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "tree_method": "hist", "nthread": 1, "max_cat_to_onehot": 1}
booster = xgb.train(parameters, data, 2)
margins = booster.predict(xgb.DMatrix(rows, feature_names=list("abcd"), feature_types=kinds, enable_categorical=True), output_margin=True)
for ending in ["json", "ubj"]:
    booster.save_model(here / f"xgboost-{xgb.__version__}-multiclass.{ending}")
write(here / f"xgboost-{xgb.__version__}-multiclass.rows.json", rows, margins.ravel())
