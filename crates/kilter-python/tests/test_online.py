"""Learners of streams, by their own laws."""

import pickle

import kilter
import numpy as np
import pytest
from data import classes
from sklearn.base import clone

ONLINE = [kilter.OnlineLogisticRegression(half_life=2_000), kilter.HoeffdingAdaptiveTreeClassifier(grace_period=100)]


def turning(rows=12_000, seed=0):
    """Labels by three columns, turned round in the middle."""
    X, y = classes(rows, seed=seed)
    y[rows // 2 :] = 1 - y[rows // 2 :]
    return X, y


@pytest.mark.parametrize("model", ONLINE)
def test_rows_in_pieces_saved_between_or_not_give_the_same_model(model, tmp_path):
    X, y = turning(4_000)
    at_once = clone(model).fit(X, y)
    pieces = clone(model)
    for first in range(0, 4_000, 500):
        pieces.partial_fit(X[first : first + 500], y[first : first + 500], classes=[0, 1])
        pieces = pickle.loads(pickle.dumps(pieces))
        pieces.model_.save(tmp_path / "stream.kltm")
        pieces.model_ = kilter.OnlineModel.load(tmp_path / "stream.kltm")
    one_by_one = clone(model).fit(X[:1_000], y[:1_000])
    for row, label in zip(X[1_000:], y[1_000:]):
        one_by_one.learn_one(row, label)
    assert at_once.model_.to_bytes() == pieces.model_.to_bytes() == one_by_one.model_.to_bytes()
    assert pieces.model_.rows == 4_000


@pytest.mark.parametrize("model", ONLINE)
def test_prequential_figures_are_those_of_the_probabilities_it_told(model):
    X, y = turning(3_000)
    model = clone(model)
    judged, told = model.prequential(X, y, stretch=1_000)
    assert told.shape == (3_000, 2) and told[0].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(judged["all"]["accuracy"], np.mean(told.argmax(axis=1) == y))
    np.testing.assert_allclose(judged["all"]["log_loss"], -np.mean(np.log(told[np.arange(3_000), y])))
    np.testing.assert_allclose(judged["all"]["accuracy_of_no_change"], np.mean(y == np.concatenate([[0], y[:-1]])))
    assert [stretch["rows"] for stretch in judged["stretches"]] == [1_000] * 3
    # It has learned from all of them.
    assert clone(model).fit(X, y).model_.to_bytes() == model.model_.to_bytes()


@pytest.mark.parametrize("model", ONLINE)
def test_it_comes_back_after_a_change_and_reasons_add_up(model):
    X, y = turning()
    model = clone(model)
    judged, _ = model.prequential(X, y, stretch=2_000)
    accuracy = [stretch["accuracy"] for stretch in judged["stretches"]]
    assert accuracy[5] > accuracy[2] - 0.03, accuracy
    contributions, bases = model.explain(X[:200])
    np.testing.assert_allclose(bases + contributions.sum(axis=1), model.decision_function(X[:200]), atol=1e-9)
    frozen = model.model_.model()
    np.testing.assert_array_equal(frozen.probabilities(X[:200]), model.predict_proba(X[:200])[:, 1])
    before = frozen.to_bytes()
    model.partial_fit(X, y)
    assert frozen.to_bytes() == before != model.model_.model().to_bytes()
    assert model.score_one(tuple(X[3])) == model.predict_proba(X[3:4])[0, 1]


def test_a_tree_of_three_classes():
    rng = np.random.default_rng(1)
    y = rng.choice(["a", "b", "c"], size=6_000)
    X = rng.normal(size=(6_000, 3)) + 2.0 * (y[:, None] == ["a", "b", "c"])
    model = kilter.HoeffdingAdaptiveTreeClassifier().fit(X[:5_000], y[:5_000])
    assert np.mean(model.predict(X[5_000:]) == y[5_000:]) > 0.8
    probabilities = model.predict_proba(X[5_000:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    contributions, bases = model.explain(X[:50])
    np.testing.assert_allclose(bases + contributions.sum(axis=1), model.decision_function(X[:50]), atol=1e-9)
    np.testing.assert_array_equal(model.score_one(list(X[0])), model.predict_proba(X[:1])[0])
    with pytest.raises(ValueError, match="3 classes"):
        model.model_.model()


def test_what_cannot_be_is_told():
    X, y = classes(200)
    model = kilter.OnlineLogisticRegression()
    with pytest.raises(ValueError, match="classes must be given in the first call"):
        model.partial_fit(X, y)
    model.partial_fit(X, y, classes=[0, 1])
    before = model.model_.to_bytes()
    with pytest.raises(ValueError, match="those of the first call were"):
        model.partial_fit(X, y, classes=[0, 2])
    with pytest.raises(ValueError, match=r"classes \[2\], which were not among"):
        model.partial_fit(X, np.where(y == 1, 2, 0))
    with pytest.raises(ValueError, match="not among"):
        model.learn_one(X[0], 5)
    with pytest.raises(ValueError, match="weight of row 200"):
        model.learn_one(X[0], 1, weight=-1.0)
    model.learn_one(X[0], 1, weight=0.0)
    assert model.model_.to_bytes() == before
    for bad, message in [
        (kilter.OnlineLogisticRegression(half_life=0.1), "half_life is 0.1"),
        (kilter.HoeffdingAdaptiveTreeClassifier(delta=2.0), "delta is 2"),
        (kilter.HoeffdingAdaptiveTreeClassifier(leaf_prediction="mean"), "leaf_prediction is 'mean'"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad.fit(X, y)
    with pytest.raises(TypeError, match="'graceperiod'; did you mean 'grace_period'"):
        kilter.HoeffdingAdaptiveTreeClassifier(graceperiod=3)
    with pytest.raises(ValueError, match="does not learn on from new rows"):
        kilter.OnlineModel.from_bytes(kilter.LogisticRegression().fit(X, y).model_.to_bytes())
