"""Makes figures.json: figures of scikit-learn that src/metrics/regression_tests.rs and confusion_tests.rs hold Kilter's against.

    python -m venv v && v/bin/pip install scikit-learn==1.9.1 && v/bin/python figures.py > figures.json
"""

import json

import numpy as np
import sklearn
from sklearn import metrics as m

rng = np.random.default_rng(21)
n = 101
found = np.round(np.exp(rng.normal(0.0, 0.7, n)), 3)
label = np.round(rng.gamma(2.0, found / 2.0), 3) + 0.001
counts = rng.poisson(found).astype(float)
weight = rng.integers(1, 6, n) / 2


def both(score, **more):
    return [score(label, found, **more), score(label, found, sample_weight=weight, **more)]


def counted(power):
    return [m.mean_tweedie_deviance(counts, found, power=power), m.mean_tweedie_deviance(counts, found, power=power, sample_weight=weight)]


# Classes and their probabilities, without ties so that nothing hangs on which of equals is called.
chance = rng.dirichlet([1.0, 1.2, 0.8], 80)
truth = np.array([rng.choice(3, p=0.7 * row + 0.1) for row in chance])
class_weight = rng.integers(1, 6, 80) / 2
calls = chance.argmax(axis=1)


def on_calls(score, **more):
    return [score(truth, calls, **more), score(truth, calls, sample_weight=class_weight, **more)]


print(json.dumps({
    "made_by": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}",
    "predictions": found.tolist(), "labels": label.tolist(), "counts": counts.tolist(), "weights": weight.tolist(),
    "rmse": both(m.root_mean_squared_error), "mae": both(m.mean_absolute_error), "r2": both(m.r2_score),
    "median_absolute_error": m.median_absolute_error(label, found),
    "pinball": both(m.mean_pinball_loss, alpha=0.8),
    "gamma": both(m.mean_gamma_deviance), "squared": both(m.mean_tweedie_deviance, power=0),
    "classes": truth.tolist(), "probabilities": chance.ravel().tolist(), "class_weights": class_weight.tolist(),
    "accuracy": on_calls(m.accuracy_score), "balanced_accuracy": on_calls(m.balanced_accuracy_score),
    "macro_f1": on_calls(m.f1_score, average="macro"), "matthews": on_calls(m.matthews_corrcoef), "kappa": on_calls(m.cohen_kappa_score),
    "precision": m.precision_score(truth, calls, average=None).tolist(), "recall": m.recall_score(truth, calls, average=None).tolist(),
    "f_beta": m.fbeta_score(truth, calls, beta=2.0, average=None).tolist(), "confusion": m.confusion_matrix(truth, calls).tolist(),
    "log_loss": [m.log_loss(truth, chance), m.log_loss(truth, chance, sample_weight=class_weight)],
    "macro_auc": [m.roc_auc_score(truth, chance, multi_class="ovr"), m.roc_auc_score(truth, chance, multi_class="ovr", sample_weight=class_weight)],
    "top_2": [m.top_k_accuracy_score(truth, chance, k=2), m.top_k_accuracy_score(truth, chance, k=2, sample_weight=class_weight)],
    "roc": [part.tolist() for part in m.roc_curve(truth == 1, chance[:, 1], drop_intermediate=False, sample_weight=class_weight)[:2]],
    "pr": [part.tolist() for part in m.precision_recall_curve(truth == 1, chance[:, 1], sample_weight=class_weight)[:2]],
    "poisson": counted(1), "tweedie": counted(1.5),
}, indent=1))
