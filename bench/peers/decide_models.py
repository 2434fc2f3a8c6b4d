"""decide_models.py FOLDER: applications with known outcomes as NDJSON for Kilter, the peers' models on the same rows, request bodies."""

import json
import pickle
import sys
import time

import lightgbm
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

ROWS, BODIES, INPUTS = 50_000, 5_000, [f"f{i:02d}" for i in range(20)]
folder = sys.argv[1]
random = np.random.default_rng(7)

x = np.round(random.normal(size=(ROWS + BODIES, 20)), 4)
x[:, :5] = np.round(np.exp(x[:, :5] + 5), 2)  # amounts
x[:, 15:] = random.poisson(2, size=(ROWS + BODIES, 5))  # counts
logit = (0.7 * np.log(x[:, 0] / 150) - 0.9 * np.log(x[:, 1] / 150) + 0.8 * x[:, 6] + 0.6 * x[:, 7] * (x[:, 8] > 0)
         - 0.5 * x[:, 15] + 0.4 * x[:, 16] + 0.5 * np.sin(2 * x[:, 9]) - 1.2)
y = random.random(ROWS + BODIES) < 1 / (1 + np.exp(-logit))
customers = random.integers(0, 20_000, size=ROWS + BODIES)


def text(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + "Z"


def body(i):
    return {"ref": f"app-{i}", "customer_id": int(customers[i]), **dict(zip(INPUTS, x[i].tolist()))}


# The last ten days but two, so that every label has matured.
times = time.time() - 10 * 86400 + np.arange(ROWS) * (8 * 86400 / ROWS)
with open(f"{folder}/applications.ndjson", "w") as applications, open(f"{folder}/outcomes.ndjson", "w") as outcomes:
    for i in range(ROWS):
        applications.write(json.dumps({"at": text(times[i]), **body(i)}) + "\n")
        outcomes.write(json.dumps({"seen_at": text(times[i] + 3600), "ref": f"app-{i}", "bad": bool(y[i])}) + "\n")
with open(f"{folder}/bodies.ndjson", "w") as bodies:
    bodies.writelines(json.dumps(body(i)) + "\n" for i in range(ROWS, ROWS + BODIES))

train = slice(0, int(ROWS * 0.8))  # Kilter holds out the newest fifth
model = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=31, early_stopping=False, random_state=7).fit(x[train], y[train])
with open(f"{folder}/sklearn.pickle", "wb") as file:
    pickle.dump(model, file)
parameters = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.1, "verbose": -1, "seed": 7, "num_threads": 2}
lightgbm.train(parameters, lightgbm.Dataset(x[train], y[train], feature_name=INPUTS), 100).save_model(f"{folder}/lightgbm.txt")
