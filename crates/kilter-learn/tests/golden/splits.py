"""Makes splits.json: test rows (and training rows of those by time) of scikit-learn's splitters, which src/selection/split_tests.rs holds Kilter's against.

    python -m venv v && v/bin/pip install scikit-learn==1.9.1 && v/bin/python splits.py > splits.json
"""

import json

import numpy as np
import sklearn
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit

rng = np.random.default_rng(22)
cases = {"time": [], "grouped": [], "stratified": [], "stratified_grouped": []}
for rows, folds, test, gap, window in [(20, 3, None, 0, None), (50, 5, 4, 3, None), (51, 4, None, 2, 10), (37, 5, 5, 1, 3), (6, 5, None, 0, None)]:
    split = TimeSeriesSplit(folds, test_size=test, gap=gap, max_train_size=window)
    found = [[train.tolist(), test_.tolist()] for train, test_ in split.split(np.zeros(rows))]
    cases["time"].append({"rows": rows, "folds": folds, "test_rows": test, "gap": gap, "window": window, "found": found})
for rows, groups, folds in [(40, 9, 3), (60, 14, 5), (33, 12, 12), (25, 6, 2)]:
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, rows - groups)]) * 3
    label = np.concatenate([np.arange(3).repeat(5), rng.choice(3, rows - 15, p=[0.6, 0.3, 0.1])])
    rng.shuffle(label)
    tests = lambda split, *args: [test.tolist() for _, test in split.split(np.zeros(rows), *args)]
    cases["grouped"].append({"groups": group.tolist(), "folds": folds, "found": tests(GroupKFold(folds), None, group)})
    few = min(folds, 5)
    cases["stratified"].append({"classes": label.tolist(), "folds": few, "found": tests(StratifiedKFold(few), label)})
    both = tests(StratifiedGroupKFold(few), label, group)
    cases["stratified_grouped"].append({"classes": label.tolist(), "groups": group.tolist(), "folds": few, "found": both})
print(json.dumps({"made_by": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}", **cases}))
