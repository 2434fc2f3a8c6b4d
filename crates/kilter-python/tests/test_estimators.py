"""What the estimators promise beyond scikit-learn's checks."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from data import classes
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

CLASSIFIERS = [kilter.GradientBoostingClassifier(n_estimators=40), kilter.LogisticRegression(), kilter.Scorecard()]


def test_it_learns_as_well_as_a_peer():
    (X, y), (X_test, y_test) = classes(5_000, seed=1), classes(5_000, seed=2)
    auc = lambda model: roc_auc_score(y_test, model.fit(X, y).predict_proba(X_test)[:, 1])
    ours = auc(kilter.GradientBoostingClassifier(n_estimators=100))
    peers = auc(HistGradientBoostingClassifier(max_iter=100, early_stopping=False))
    assert ours > 0.8
    assert ours > peers - 0.01, (ours, peers)


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_change_no_byte(threads):
    X, y = classes(50_000)
    fit = lambda n: kilter.GradientBoostingClassifier(n_estimators=20, n_jobs=n).fit(X, y)
    one, many = fit(1), fit(threads)
    assert one.model_.to_bytes() == many.model_.to_bytes()
    assert np.array_equal(one.predict_proba(X), many.predict_proba(X))


@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_one_row_and_many_are_the_same_bits(estimator):
    X, y = classes()
    model = estimator.fit(X, y)
    many = model.predict_proba(X)[:, 1]
    names = model.model_.inputs
    for row, expected in zip(X[:50], many):
        missing_as_none = [None if np.isnan(value) else float(value) for value in row]
        assert model.score_one(row) == expected
        assert model.score_one(tuple(missing_as_none)) == expected
        assert model.score_one(missing_as_none) == expected
        assert model.score_one(dict(zip(names, missing_as_none))) == expected


@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_contributions_add_up(estimator):
    X, y = classes()
    model = estimator.fit(X, y)
    contributions, base = model.explain(X)
    assert contributions.shape == X.shape
    np.testing.assert_allclose(base + contributions.sum(axis=1), model.decision_function(X), atol=1e-9)
    probability, reasons = model.model_.explain_one(X[0], top=2)
    assert probability == model.predict_proba(X[:1])[0, 1]
    order = np.argsort(-np.abs(contributions[0]))
    assert reasons == [(model.model_.inputs[at], contributions[0, at]) for at in order[:2]]


@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_files_and_pickles_keep_every_bit(estimator, tmp_path):
    X, y = classes()
    model = estimator.fit(X, y)
    expected = model.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)
    path = tmp_path / "model.kltm"
    model.model_.save(path)
    loaded = kilter.Model.load(path)
    assert np.array_equal(loaded.probabilities(X), expected[:, 1])
    assert loaded.to_bytes() == model.model_.to_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model.kltm"]


def test_damaged_files_are_refused(tmp_path):
    X, y = classes(500)
    data = bytearray(kilter.LogisticRegression().fit(X, y).model_.to_bytes())
    data[-20] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        kilter.Model.from_bytes(bytes(data))
    (tmp_path / "other.kltm").write_text("not a model at all")
    with pytest.raises(ValueError, match="other.kltm.*no Kilter model"):
        kilter.Model.load(tmp_path / "other.kltm")
    with pytest.raises(OSError, match="nowhere.kltm"):
        kilter.Model.load(tmp_path / "nowhere.kltm")


def test_other_names_of_parameters():
    model = kilter.GradientBoostingClassifier(num_leaves=7, n_estimators=3, min_child_samples=5, reg_lambda=0.0)
    parameters = model.get_params()
    assert (parameters["max_leaf_nodes"], parameters["min_samples_leaf"], parameters["l2_regularization"]) == (7, 5, 0.0)
    assert model.set_params(eta=0.3).learning_rate == 0.3
    with pytest.raises(TypeError, match="no parameter 'max_leave_nodes'; did you mean 'max_leaf_nodes'"):
        kilter.GradientBoostingClassifier(max_leave_nodes=7)
    with pytest.raises(TypeError, match="'num_leaf'; did you mean 'num_leaves' .another name of 'max_leaf_nodes'"):
        kilter.GradientBoostingClassifier(num_leaf=7)
    with pytest.raises(TypeError, match="'learning_rate' is given twice"):
        kilter.GradientBoostingClassifier(eta=0.3, learning_rate=0.1)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"max_leaf_nodes": 1}, "leaves is 1"),
        ({"max_bins": 1000}, "bins is 1000"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"n_estimators": -1}, "n_estimators|invalid value"),
        ({"monotonic_cst": [1]}, "monotone: 1 values for 5"),
        ({"monotonic_cst": {"zz": 1}}, "'zz'"),
        ({"monotonic_method": "best"}, "monotonic_method is 'best', but must be 'basic', 'intermediate' or 'advanced'"),
        ({"growth": "sideways"}, "growth is 'sideways', but must be 'leaf_wise' or 'oblivious'"),
        ({"sampling": "mvs"}, "sampling is mvs.*bagging_fraction"),
        ({"sampling": "some", "subsample": 0.5}, "sampling is 'some'"),
    ],
)
def test_bad_parameters_are_told(parameters, message):
    X, y = classes(200)
    with pytest.raises(ValueError, match=message):
        kilter.GradientBoostingClassifier(**parameters).fit(X, y)


@pytest.mark.parametrize("method", ["basic", "intermediate", "advanced"])
@pytest.mark.parametrize("growth", ["leaf_wise", "oblivious"])
def test_monotone_scores(growth, method):
    X, y = classes(4_000)
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = kilter.GradientBoostingClassifier(n_estimators=60, growth=growth, monotonic_cst={"a": 1, "b": -1}, monotonic_method=method).fit(frame, y)
    assert model.report_["report"]["certificate"]["columns"] == 2
    rows = np.repeat(np.nan_to_num(X[:100]), 50, axis=0)
    for column, sign in ((0, 1), (1, -1)):
        probe = rows.copy()
        probe[:, column] = np.tile(np.linspace(-4, 4, 50), 100)
        margins = model.decision_function(pd.DataFrame(probe, columns=list("abcde"))).reshape(100, 50)
        assert (sign * np.diff(margins, axis=1) >= 0).all()


def test_growth_and_sampling_go_by_the_names_of_other_programs():
    X, y = classes(3_000)
    model = lambda **parameters: kilter.GradientBoostingClassifier(n_estimators=20, subsample=0.5, **parameters)
    bytes_of = lambda **parameters: model(**parameters).fit(X, y).model_.to_bytes()
    assert bytes_of(grow_policy="SymmetricTree", sampling_method="gradient_based") == bytes_of(growth="oblivious", sampling="mvs")
    assert bytes_of(grow_policy="Lossguide", data_sample_strategy="bagging") == bytes_of()
    assert len({bytes_of(sampling=sampling, growth=growth) for sampling in ("uniform", "mvs", "goss") for growth in ("leaf_wise", "oblivious")}) == 6
    for sampling in ("mvs", "goss"):
        assert model(sampling=sampling).fit(X, y).score(X, y) > 0.8


def test_early_stopping_keeps_the_best_number_of_trees():
    (X, y), later = classes(3_000, seed=1), classes(3_000, seed=2)
    model = kilter.GradientBoostingClassifier(n_estimators=500, learning_rate=0.3, early_stopping=True, n_iter_no_change=10)
    model.fit(X, y, eval_set=later)
    losses = model.report_["report"]["validation_loss"]
    assert model.n_estimators_ == int(np.argmin(losses)) + 1 < 500
    held_out = kilter.GradientBoostingClassifier(n_estimators=500, early_stopping=True).fit(X, y).report_["report"]
    assert (held_out["rows"], held_out["validation_rows"]) == (2_700, 300)
    with pytest.raises(ValueError, match="classes that the training rows do not have"):
        model.fit(X, y, eval_set=(X, y + 5))


def test_weights_count_like_repetition():
    (X, y), (X_test, y_test) = classes(3_000), classes(3_000, seed=9)
    weights = np.random.default_rng(1).integers(0, 4, size=len(y))
    # Gradients are rounded row by row, so that near ties may fall otherwise: the fits are as good as each other, not the same.
    parameters = dict(n_estimators=30, min_samples_leaf=1, min_child_weight=5.0)
    loss = lambda X, y, weights=None: log_loss(
        y_test, kilter.GradientBoostingClassifier(**parameters).fit(X, y, sample_weight=weights).predict_proba(X_test)
    )
    weighted, repeated = loss(X, y, weights), loss(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    unweighted = loss(X, y)
    assert abs(weighted - repeated) < 0.01, (weighted, repeated, unweighted)
    linear = lambda *rows: kilter.LogisticRegression().fit(*rows).predict_proba(X_test)
    np.testing.assert_allclose(linear(X, y, weights), linear(np.repeat(X, weights, axis=0), np.repeat(y, weights)), rtol=1e-9)


def test_class_weight_moves_scores():
    X, y = classes()
    plain = kilter.LogisticRegression().fit(X, y).decision_function(X).mean()
    heavy = kilter.LogisticRegression(class_weight={0: 1, 1: 5}).fit(X, y).decision_function(X).mean()
    assert heavy > plain + 1
