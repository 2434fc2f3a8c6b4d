"""Makes metrics.json: figures of scikit-learn and scipy that tests/metrics.rs holds Kilter's against.

    python -m venv v && v/bin/pip install scikit-learn==1.9.0 scipy && v/bin/python metrics.py > metrics.json
"""

import json

import numpy as np
import sklearn
from scipy import optimize, special, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve

rng = np.random.default_rng(20)
n = 400
margin = np.round(rng.normal(-0.5, 1.5, n), 2)  # rounded, so that there are ties
label = (rng.random(n) < special.expit(0.7 * margin - 0.2)).astype(int)
weight = rng.integers(1, 6, n) / 2
second = np.round(margin + rng.normal(0, 1.0, n), 2)
p = special.expit(margin)


def ks(scores, **more):
    fpr, tpr, thresholds = roc_curve(label, scores, drop_intermediate=False, **more)
    best = np.argmax(tpr - fpr)
    return {"value": (tpr - fpr)[best], "threshold": thresholds[best]}


def delong(a, b):
    """By the definition: covariances of the placements, pair by pair."""
    def placements(s):
        pos, neg = s[label == 1][:, None], s[label == 0][None, :]
        wins = (pos > neg) + 0.5 * (pos == neg)
        return wins.mean(axis=1), wins.mean(axis=0)
    (pa, na), (pb, nb) = placements(a), placements(b)
    cov = np.cov(pa, pb) / len(pa) + np.cov(na, nb) / len(na)
    difference = pa.mean() - pb.mean()
    error = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    return np.sqrt(cov[0, 0]), difference, error, 2 * stats.norm.sf(abs(difference / error))


def bins(scores, count):
    order = np.argsort(scores, kind="stable")
    s, y = scores[order], label[order]
    start = 0
    for k in range(1, count + 1):
        end = max(k * n // count, start)
        while start < end < n and s[end] == s[end - 1]:
            end += 1
        if end > start:
            yield s[start:end].mean(), y[start:end].mean(), end - start
        start = end


def minimise(features, targets):
    """The likeliest curve whose slopes are not negative, by a general minimiser."""
    def loss(x):
        m = features @ x[:-1] + x[-1]
        return np.sum(np.logaddexp(0, m) - targets * m)
    start = np.ones(features.shape[1] + 1)
    bounds = [(0, None)] * features.shape[1] + [(None, None)]
    return optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10000}).x


positives, negatives = label.sum(), n - label.sum()
smoothed = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
probes = [-4.0, -1.234, 0.0, 0.777, 3.5]
platt = minimise(margin[:, None], smoothed)
beta = minimise(np.column_stack([np.log(p), -np.log1p(-p)]), smoothed)
isotonic = IsotonicRegression(out_of_bounds="clip", y_min=1 / (n + 2), y_max=1 - 1 / (n + 2)).fit(margin, label)
slope = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(margin[:, None], label)
large = optimize.brentq(lambda a: special.expit(margin + a).sum() - label.sum(), -10, 10, xtol=1e-14)
table = list(bins(p, 10))
hl = sum(c * (o - m) ** 2 / (m * (1 - m)) for m, o, c in table)
error, difference, difference_error, p_value = delong(margin, second)
lower, upper = roc_auc_score(label, p) + np.array([-1, 1]) * stats.norm.ppf(0.975) * error
contingency = stats.chi2_contingency([[12, 30, 58, 4], [15, 26, 59, 9]], correction=False)

print(json.dumps({
    "made_by": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}",
    "margins": margin.tolist(), "second": second.tolist(), "labels": label.tolist(), "weights": weight.tolist(),
    "auc": roc_auc_score(label, p), "auc_weighted": roc_auc_score(label, p, sample_weight=weight),
    "average_precision": average_precision_score(label, p), "average_precision_weighted": average_precision_score(label, p, sample_weight=weight),
    "log_loss": log_loss(label, p), "log_loss_weighted": log_loss(label, p, sample_weight=weight),
    "brier": brier_score_loss(label, p), "brier_weighted": brier_score_loss(label, p, sample_weight=weight),
    "ks": ks(margin), "ks_weighted": ks(margin, sample_weight=weight),
    "auc_standard_error": error, "auc_low": lower, "auc_high": upper,
    "comparison": {"difference": difference, "standard_error": difference_error, "p_value": p_value},
    "ece": sum(c * abs(m - o) for m, o, c in table) / n,
    "brier_reliability": sum(c * (m - o) ** 2 for m, o, c in table) / n,
    "brier_resolution": sum(c * (o - label.mean()) ** 2 for m, o, c in table) / n,
    "in_the_large": large, "slope": slope.coef_[0, 0], "intercept": slope.intercept_[0],
    "hosmer_lemeshow": {"statistic": hl, "p_value": stats.chi2.sf(hl, len(table)), "p_value_fitted": stats.chi2.sf(hl, len(table) - 2)},
    "stability": {"chi_square": contingency[0], "p_value": contingency[1]},
    "probes": probes,
    "platt": special.expit(platt[0] * np.array(probes) + platt[1]).tolist(),
    "beta": special.expit(beta[0] * special.log_expit(probes) - beta[1] * special.log_expit(-np.array(probes)) + beta[2]).tolist(),
    "isotonic": isotonic.predict(probes).tolist(),
}, indent=1))
