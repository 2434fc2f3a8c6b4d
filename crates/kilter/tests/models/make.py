"""Makes the model files beside it: what LightGBM and XGBoost save when they are trained on the inputs of the lender in `tests/models.rs`.

    python make.py    writes lightgbm.txt, xgboost.json and xgboost.ubj

The rows are made up, in the ranges that the generated lender has.
"""

import pathlib

import lightgbm as lgb
import numpy as np
import pandas as pd
import xgboost as xgb

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(11)
rows = 4_000
x = pd.DataFrame(
    {
        "account.bookings_1d": rng.poisson(1.0, rows),
        "account.bookings_7d": rng.poisson(6.0, rows),
        "account.turnover_7d": rng.gamma(2.0, 600.0, rows),
        "account.low_7d": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(800.0, 900.0, rows)),
        "account.total": rng.poisson(40.0, rows),
        "applications.amount": rng.uniform(500.0, 12_000.0, rows),
        "applications.payment": rng.uniform(30.0, 600.0, rows),
    }
)
burden = x["applications.payment"] / (1.0 + x["account.turnover_7d"]) - np.nan_to_num(x["account.low_7d"]) / 2_000.0
y = (rng.random(rows) < 1 / (1 + np.exp(1.0 - 2.0 * burden))).astype(int)

parameters = {"objective": "binary", "num_leaves": 8, "verbose": -1, "num_threads": 1, "seed": 1}
lgb.train(parameters, lgb.Dataset(x, y, params={"verbose": -1}), 12).save_model(here / "lightgbm.txt")
booster = xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": 1}, xgb.DMatrix(x, y), 8)
for ending in ["json", "ubj"]:
    booster.save_model(here / f"xgboost.{ending}")
