"""Calibrated models: probabilities that come true, over the package's own learners and models from elsewhere."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from data import FOREIGN, classes
from sklearn.metrics import brier_score_loss, log_loss

STEEP = kilter.GradientBoostingClassifier(n_estimators=300, learning_rate=0.3, min_samples_leaf=2)


def error(y, probability, bins=10):
    """Expected calibration error."""
    order = np.array_split(np.argsort(probability), bins)
    return sum(len(part) * abs(y[part].mean() - probability[part].mean()) for part in order) / len(y)


@pytest.mark.parametrize("method", ["isotonic", "platt", "beta"])
def test_probabilities_come_true(method):
    (X, y), (X_test, y_test) = classes(6_000, seed=1), classes(6_000, seed=2)
    raw = STEEP.fit(X, y).predict_proba(X_test)[:, 1]
    model = kilter.CalibratedModel(STEEP, method=method).fit(X, y)
    probability = model.predict_proba(X_test)[:, 1]
    assert error(y_test, probability) < 0.5 * error(y_test, raw)
    assert brier_score_loss(y_test, probability) < brier_score_loss(y_test, raw)
    assert log_loss(y_test, probability) < log_loss(y_test, raw)
    assert np.array_equal(model.predict(X_test), (probability > 0.5).astype(int))
    np.testing.assert_allclose(1 / (1 + np.exp(-model.decision_function(X_test))), probability, rtol=1e-9)


def test_the_curve_sees_rows_that_the_learner_has_not_seen():
    X, y = classes(2_000)
    model = kilter.CalibratedModel(method="platt", share=0.25).fit(X, y)
    assert model.estimator_.report_["report"]["rows"] == 1_500
    beneath = kilter.GradientBoostingClassifier().fit(X[:1_500], y[:1_500])
    assert np.array_equal(model.model_.margins(X), beneath.decision_function(X)), "the margin stays the learner's"
    assert model.report_["model"]["kind"] == "gbdt" and model.report_["calibration"]["method"] == "platt"
    contributions, base = model.explain(X)
    np.testing.assert_allclose(base + contributions.sum(axis=1), beneath.decision_function(X), atol=1e-9)


def test_another_rate_moves_the_mean():
    X, y = classes(4_000)
    model = kilter.CalibratedModel(kilter.LogisticRegression(), method="prior_shift", target_rate=0.1).fit(X, y)
    # Odds are multiplied by those of the target over those of the rows that the curve was fitted to.
    rate = y[-800:].mean()
    shift = np.log(0.1 / 0.9) - np.log(rate / (1 - rate))
    np.testing.assert_allclose(model.decision_function(X), model.model_.margins(X) + shift, atol=1e-9)


@pytest.mark.parametrize("estimator", [kilter.LogisticRegression(), kilter.Scorecard(), STEEP])
def test_files_pickles_and_single_rows_keep_every_bit(estimator, tmp_path):
    X, y = classes(2_000)
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = kilter.CalibratedModel(estimator, method="isotonic").fit(frame, y)
    assert model.model_.inputs == list("abcde")
    expected = model.predict_proba(frame)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(frame), expected)
    model.model_.save(tmp_path / "model.kltm")
    loaded = kilter.Model.load(tmp_path / "model.kltm")
    assert np.array_equal(loaded.probabilities(frame), expected[:, 1])
    assert np.array_equal(loaded.predictions(frame), expected[:, 1])
    rows = [None if np.isnan(value) else value for value in X[0].tolist()]
    assert loaded.score_one(rows) == loaded.explain_one(rows)[0] == expected[0, 1]


@pytest.mark.parametrize("name", ["lightgbm-4.7.0.txt", "xgboost-3.2.0.json", "xgboost-3.2.0.ubj"])
def test_a_model_from_elsewhere_can_be_calibrated(name):
    model = kilter.Model.load(FOREIGN / name)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2_000, 4))
    X[:, 3] = rng.integers(0, 40, 2_000)
    y = rng.uniform(size=2_000) < model.probabilities(X) ** 3
    calibrated = kilter.CalibratedModel(model, method="beta").fit(X, y)
    assert calibrated.estimator_ is model
    assert np.array_equal(calibrated.model_.margins(X), model.margins(X))
    assert error(y, calibrated.predict_proba(X)[:, 1]) < 0.5 * error(y, model.probabilities(X))
    with pytest.raises(ValueError, match="in this order"):
        kilter.CalibratedModel(model).fit(pd.DataFrame(X, columns=list("wxyz")), y)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"method": "isotonik"}, "isotonik"),
        ({"share": 1.0}, "share is 1.0"),
        ({"method": "prior_shift"}, "target_rate"),
        ({"target_rate": 2.0}, "target_rate is 2"),
        ({"share": 0.01}, "calibration by isotonic has 5 rows"),
        ({"few_rows": "hope"}, "few_rows is 'hope'"),
    ],
)
def test_what_is_wrong_is_told(parameters, message):
    X, y = classes(500)
    with pytest.raises(ValueError, match=message):
        kilter.CalibratedModel(**parameters).fit(X, y)


def test_a_model_of_few_rows_may_be_left_as_it_is():
    X, y = classes(300)
    left = kilter.CalibratedModel(kilter.LogisticRegression(), few_rows="leave").fit(X, y)
    assert not left.calibrated_ and left.model_.kind == "logistic"
    np.testing.assert_allclose(left.decision_function(X), left.model_.margins(X), rtol=1e-9)
    X, y = classes(2_000)
    assert left.fit(X, y).calibrated_ and left.model_.kind == "calibrated"


def test_what_cannot_be_calibrated_is_told():
    X, y = classes(500)
    with pytest.raises(TypeError, match="is a GradientBoostingRegressor, but must be a classifier of this package"):
        kilter.CalibratedModel(kilter.GradientBoostingRegressor()).fit(X, y)
    with pytest.raises(TypeError, match="is a CalibratedModel"):
        kilter.CalibratedModel(kilter.CalibratedModel()).fit(X, y)
    regression = kilter.GradientBoostingRegressor(n_estimators=2).fit(X, y).model_
    with pytest.raises(ValueError, match="predicts no probability"):
        kilter.CalibratedModel(regression).fit(X, y)


def three(rows, seed):
    """Three classes of unlike size, and how likely each is."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3))
    margins = np.column_stack([1 + X[:, 0], X[:, 1], -0.5 - X[:, 0]])
    return X, np.array(["low", "mid", "top"])[(margins + rng.gumbel(size=margins.shape)).argmax(axis=1)]


@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic", "beta"])
def test_probabilities_of_several_classes_come_true(method, tmp_path):
    (X, y), (X_test, y_test) = three(5_000, 1), three(5_000, 2)
    raw = STEEP.fit(X, y)
    model = kilter.CalibratedModel(STEEP, method=method, share=0.4).fit(X, y)
    probability = model.predict_proba(X_test)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    assert log_loss(y_test, probability) < 0.8 * log_loss(y_test, raw.predict_proba(X_test))
    for at, name in enumerate(model.classes_):
        # One number for all classes does not make each come true, only truer.
        most = 0.7 * error(y_test == name, raw.predict_proba(X_test)[:, at]) if method == "temperature" else 0.04
        assert error(y_test == name, probability[:, at]) < most, name
    assert np.array_equal(model.predict(X_test), model.classes_[probability.argmax(axis=1)])
    assert model.calibrated_ and model.report_["calibration"]["method"] == {"sigmoid": "platt"}.get(method, method)
    assert np.array_equal(model.score_one(X_test[0]), probability[0])
    model.model_.save(tmp_path / "model.kltm")
    again = kilter.ClassModel.load(tmp_path / "model.kltm")
    assert np.array_equal(again.probabilities(X_test), probability)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X_test), probability)
    # A model as it is takes all rows into its calibration.
    as_it_is = kilter.CalibratedModel(raw.model_, method=method).fit(X_test, y_test)
    assert as_it_is.report_["calibration"]["on_rows_it_was_fitted_to"]["rows"] == 5_000


def test_the_temperature_is_that_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("this scikit-learn has no temperature scaling")
    (X, y), (X_later, y_later) = three(3_000, 3), three(2_000, 4)
    raw = STEEP.fit(X, y).model_
    own = kilter.CalibratedModel(raw, method="temperature").fit(X_later, y_later).report_["calibration"]["curve"]["temperature"]
    codes = np.unique(y_later, return_inverse=True)[1]
    theirs = calibration._TemperatureScaling().fit(np.log(raw.probabilities(X_later)), codes)
    assert own == pytest.approx(1 / theirs.beta_, rel=1e-3)


def test_what_several_classes_cannot_have_is_told():
    X, y = three(1_000, 5)
    for parameters, words in [
        ({"method": "prior_shift"}, "temperature, platt, isotonic, beta"),
        ({"method": "platt", "target_rate": 0.1}, "target_rate is of two classes"),
        ({"estimator": kilter.LogisticRegression()}, "Only binary classification"),
    ]:
        with pytest.raises(ValueError, match=words):
            kilter.CalibratedModel(**parameters).fit(X, y)
    late = np.where(np.arange(1_000) < 800, np.where(y == "top", "mid", y), y)
    with pytest.raises(ValueError, match="must have all"):
        kilter.CalibratedModel(method="temperature").fit(X, late)
    with pytest.raises(ValueError, match="of two take 'platt'"):
        kilter.CalibratedModel(method="temperature").fit(X, y == "top")
    left = kilter.CalibratedModel(method="platt", few_rows="leave").fit(X[:100], y[:100])
    assert not left.calibrated_ and left.predict_proba(X).shape == (1_000, 3)
