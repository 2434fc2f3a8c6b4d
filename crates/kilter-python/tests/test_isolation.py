"""Isolation forests beside scikit-learn's."""

import pickle

import kilter
import numpy as np
import pytest
import sklearn.ensemble
from sklearn.metrics import roc_auc_score


def rows(seed=0):
    """1000 rows of two clouds, and 50 anywhere."""
    rng = np.random.default_rng(seed)
    clouds = rng.normal(size=(1000, 4)) + 4 * (np.arange(1000) % 2)[:, None]
    return np.vstack([clouds, rng.uniform(-8, 12, size=(50, 4))]), np.repeat([1, -1], [1000, 50])


def test_it_finds_what_scikit_learn_finds():
    (X, _), (X_test, y_test) = rows(1), rows(2)
    auc = lambda model: roc_auc_score(y_test, model.fit(X).score_samples(X_test))
    ours, theirs = auc(kilter.IsolationForest()), auc(sklearn.ensemble.IsolationForest(random_state=0))
    assert ours > 0.9 and ours > theirs - 0.02, (ours, theirs)


def test_scores_lines_and_labels_belong_together():
    X, _ = rows()
    model = kilter.IsolationForest(contamination=0.05).fit(X)
    scores = model.score_samples(X)
    assert ((-1 <= scores) & (scores < 0)).all()
    np.testing.assert_array_equal(model.predict(X), np.where(scores < model.offset_, -1, 1))
    assert np.mean(model.predict(X) == -1) == pytest.approx(0.05, abs=0.002)
    assert np.array_equal(model.fit_predict(X), model.predict(X))
    assert kilter.IsolationForest().fit(X).offset_ == -0.5
    contributions, base = model.explain(X)
    np.testing.assert_allclose(base + contributions.sum(axis=1), np.log(-scores), atol=1e-9)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).score_samples(X), scores)


def test_parameters_are_told():
    X, _ = rows()
    assert kilter.IsolationForest(sample_size=64).max_samples == 64
    for given in [0.0, 0.6, -1]:
        with pytest.raises(ValueError, match="contamination is .* share above 0"):
            kilter.IsolationForest(contamination=given).fit(X)
    with pytest.raises(ValueError, match="sample is 1, but must be"):
        kilter.IsolationForest(max_samples=1).fit(X)
    with pytest.raises(TypeError, match="'contaminated'; did you mean 'contamination'"):
        kilter.IsolationForest(contaminated=0.1)
