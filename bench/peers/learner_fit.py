"""Fits one peer once (or several times) on arrays of numpy and prints what it cost and how good it is, as JSON.

    learner_fit.py PEER FOLDER '{"trees": 100, "leaves": 31, "threads": 2, "categorical": []}' REPEATS
"""

import json
import os
import re
import sys
import time

import numpy as np

peer, folder, options, repeats = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
x, y, x_test, y_test = (np.load(f"{folder}/{name}.npy") for name in ("x_train", "y_train", "x_test", "y_test"))
trees, leaves, threads = options["trees"], options["leaves"], options["threads"]


def lightgbm():
    import lightgbm as lgb
    parameters = dict(objective="binary", num_leaves=leaves, learning_rate=0.1, max_bin=255, lambda_l2=1.0, min_data_in_leaf=20,
                      min_sum_hessian_in_leaf=1e-3, num_threads=threads, verbosity=-1)

    def fit():
        return lgb.train(parameters, lgb.Dataset(x, y, params={"verbosity": -1}), trees)
    return fit, lambda model: model.predict(x_test, num_threads=threads)


def xgboost():
    import xgboost as xgb
    model = xgb.XGBClassifier(n_estimators=trees, max_leaves=leaves, max_depth=0, grow_policy="lossguide", learning_rate=0.1, max_bin=256,
                              reg_lambda=1.0, min_child_weight=1e-3, tree_method="hist", n_jobs=threads)
    return lambda: model.fit(x, y), lambda model: model.predict_proba(x_test)[:, 1]


def sklearn():
    from sklearn.ensemble import HistGradientBoostingClassifier
    model = HistGradientBoostingClassifier(max_iter=trees, max_leaf_nodes=leaves, learning_rate=0.1, max_bins=255, l2_regularization=1.0,
                                           min_samples_leaf=20, early_stopping=False)
    return lambda: model.fit(x, y), lambda model: model.predict_proba(x_test)[:, 1]


def hessboost():
    from hessboost.sklearn import HessboostClassifier
    model = HessboostClassifier(n_estimators=trees, max_leaves=leaves, max_depth=0, grow_policy="lossguide", learning_rate=0.1, reg_lambda=1.0,
                                min_child_weight=1e-3, n_jobs=threads)
    return lambda: model.fit(x, y), lambda model: model.predict_proba(x_test)[:, 1]


def memory(line):
    return int(re.search(rf"^{line}:\s+(\d+) kB", open("/proc/self/status").read(), re.M).group(1)) // 1024


fit, predict = {"lightgbm": lightgbm, "xgboost": xgboost, "sklearn": sklearn, "hessboost": hessboost}[peer]()
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
walls, started_cpu = [], sum(os.times()[:2])
for _ in range(repeats):
    started = time.perf_counter()
    model = fit()
    walls.append(time.perf_counter() - started)
cpu = (sum(os.times()[:2]) - started_cpu) / repeats
added = memory("VmHWM") - before
p = np.asarray(predict(model), dtype=np.float64).reshape(-1)
from sklearn.metrics import log_loss, roc_auc_score  # noqa: E402, after the measurement
print(json.dumps(dict(wall=sorted(walls)[len(walls) // 2], cpu=cpu, added_mib=added, auc=roc_auc_score(y_test, p), log_loss=log_loss(y_test, p))))
