"""Losses and metrics that are Python functions."""

import threading

import kilter
import numpy as np
import pytest
from data import amounts, classes
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score


def logistic(y, margins):
    p = 1 / (1 + np.exp(-margins))
    return p - y, p * (1 - p)


def accuracy(y, probability):
    return "accuracy", np.mean((probability > 0.5) == y), True


def test_a_copy_of_log_loss_learns_what_log_loss_learns():
    (X, y), (X_new, y_new) = classes(6_000), classes(6_000, seed=1)
    built_in = kilter.GradientBoostingClassifier(n_estimators=60).fit(X, y)
    own = kilter.GradientBoostingClassifier(n_estimators=60, loss=logistic).fit(X, y)
    assert own.model_.link == "logit" and own.report_["parameters"]["objective"] == {"custom": {"link": "logit"}}
    # It starts at even odds and its derivatives are rounded on a scale of their own: other bits, the same worth.
    losses = [log_loss(y_new, model.predict_proba(X_new)) for model in (built_in, own)]
    assert abs(losses[0] - losses[1]) < 0.004, losses
    assert np.array_equal(clone(own).fit(X, y).decision_function(X), own.decision_function(X))
    loaded = kilter.Model.from_bytes(own.model_.to_bytes())
    assert np.array_equal(loaded.probabilities(X), own.predict_proba(X)[:, 1])


def test_weights_count_with_and_without_being_asked_for():
    X, y = amounts()
    weight = np.where(X[:, 0] > 0.5, 5.0, 1.0)
    plain = lambda y, margins: (margins - y, np.ones(len(y)))
    weighted = lambda y, margins, weight: (weight * (margins - y), weight)
    seen = []
    lazy = lambda y, margins, weight, group: (seen.append((weight, group)), weighted(y, margins, np.ones(len(y)) if weight is None else weight))[1]
    fit = lambda loss, **given: kilter.GradientBoostingRegressor(loss=loss, n_estimators=20).fit(X, y, **given).predict(X)
    assert np.array_equal(fit(plain, sample_weight=weight), fit(weighted, sample_weight=weight))
    assert np.array_equal(fit(plain), fit(lazy)) and seen == [(None, None)] * 20
    assert not np.array_equal(fit(plain), fit(plain, sample_weight=weight))


def test_a_declared_link_makes_predictions():
    def poisson(y, margins):
        return np.exp(margins) - y, np.exp(margins)

    poisson.link = "log"
    X, y = amounts()
    model = kilter.GradientBoostingRegressor(loss=poisson, n_estimators=100).fit(X, y)
    built_in = kilter.GradientBoostingRegressor(loss="poisson", n_estimators=100).fit(X, y)
    assert model.model_.link == "log" and np.corrcoef(model.predict(X), built_in.predict(X))[0, 1] > 0.98
    assert abs(model.predict(X).mean() / y.mean() - 1) < 0.02


def test_a_metric_decides_when_to_stop():
    (X, y), later = classes(2_000), classes(2_000, seed=1)
    model = kilter.GradientBoostingClassifier(n_estimators=400, learning_rate=0.3, early_stopping=True, n_iter_no_change=15)
    by_accuracy = clone(model).fit(X, y, eval_set=later, eval_metric=accuracy)
    told = by_accuracy.report_["report"]["metric"]
    assert (told["name"], told["higher_is_better"]) == ("accuracy", True)
    assert by_accuracy.n_estimators_ == int(np.argmax(told["values"])) + 1 < 400
    # A built-in loss hands over probabilities, one's own margins.
    accuracies = np.mean((by_accuracy.predict_proba(later[0])[:, 1] > 0.5) == later[1])
    assert max(told["values"]) == pytest.approx(accuracies)
    auc = lambda y, margins: ("auc", roc_auc_score(y, margins), True)
    negative = lambda y, margins: (("auc", roc_auc_score(y, margins), True) if margins.min() < 0 else 1 / 0)
    own = clone(model).set_params(loss=logistic)
    assert own.fit(X, y, eval_set=later, eval_metric=negative).n_estimators_ < 400
    assert own.fit(X, y, eval_metric=auc).report_["report"]["validation_rows"] == 200
    with pytest.raises(ValueError, match="early_stopping is on"):
        own.fit(X, y, eval_set=later)


@pytest.mark.parametrize(
    "loss, error, message",
    [
        (lambda y, m: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda y, m: m, ValueError, "two arrays"),
        (lambda y, m: (m, "high"), ValueError, "two arrays of numbers"),
        (lambda y, m: (m[1:], m[1:]), ValueError, r"1000 hessians; found shapes \(999,\)"),
        (lambda y, m: (m[:, None], m), ValueError, r"found shapes \(1000, 1\)"),
        (lambda y, m: (np.where(np.arange(1000) == 5, np.nan, m), m + 1), ValueError, "row 5 the derivatives NaN"),
        (lambda y, m: (m, m - 1), ValueError, "row 0 the derivatives .* not below 0"),
        (lambda y: y, ValueError, "must take y and what is predicted"),
        (lambda y, m, w, g, more: y, ValueError, "it takes 5 arguments"),
    ],
)
def test_what_a_loss_must_not_say(loss, error, message):
    X, y = amounts(1_000)
    with pytest.raises(error, match=message):
        kilter.GradientBoostingRegressor(loss=loss).fit(X, y)


@pytest.mark.parametrize(
    "metric, error, message",
    [
        (lambda y, p: 0.5, ValueError, "name, value, is_higher_better"),
        (lambda y, p: ("x", np.nan, True), ValueError, "metric x is no number"),
        (lambda y, p: (str(p.mean()), 1.0, True), ValueError, "one metric of one direction"),
        (lambda y, p: {}["no"], KeyError, "no"),
    ],
)
def test_what_a_metric_must_not_say(metric, error, message):
    (X, y), later = classes(1_000), classes(1_000, seed=1)
    with pytest.raises(error, match=message):
        kilter.GradientBoostingClassifier(n_estimators=5).fit(X, y, eval_set=later, eval_metric=metric)
    three = np.arange(1_000) % 3
    with pytest.raises(ValueError, match="eval_metric is a function of two classes"):
        kilter.GradientBoostingClassifier().fit(X, three, eval_metric=metric)
    with pytest.raises(ValueError, match="loss is a function of two classes"):
        kilter.GradientBoostingClassifier(loss=logistic).fit(X, three)
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        kilter.GradientBoostingClassifier(loss="hinge").fit(X, y)


def test_functions_run_while_other_threads_learn_and_may_score():
    X, y = classes(5_000)
    helper = kilter.GradientBoostingClassifier(n_estimators=5, n_jobs=2).fit(X, y)

    def asking(y, margins):
        helper.model_.margins(X, threads=2)
        return logistic(y, margins)

    found = [None] * 4
    def learn(at):
        found[at] = kilter.GradientBoostingClassifier(n_estimators=10, loss=asking, n_jobs=2).fit(X, y).decision_function(X)

    threads = [threading.Thread(target=learn, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert all(np.array_equal(found[0], one) for one in found)
