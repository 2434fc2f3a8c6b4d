"""Classifiers of more than two classes."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from data import FOREIGN
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split


@pytest.mark.parametrize("load", [load_iris, load_digits])
@pytest.mark.parametrize("multi_class", ["softmax", "one_vs_rest"])
def test_it_learns_as_well_as_a_peer(load, multi_class):
    X, y = load(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, test_size=0.4)
    ours = kilter.GradientBoostingClassifier(multi_class=multi_class, n_estimators=40, l2_regularization=0.0).fit(X, y)
    peer = HistGradientBoostingClassifier(max_iter=40, early_stopping=False).fit(X, y)
    assert ours.score(X_test, y_test) > peer.score(X_test, y_test) - 0.03
    # Probabilities of one class against the rest are made to sum to 1 and not learned to: scikit-learn has the softmax only.
    room = 1.1 if multi_class == "softmax" else 1.4
    assert log_loss(y_test, ours.predict_proba(X_test)) < room * log_loss(y_test, peer.predict_proba(X_test)) + 0.02


@pytest.mark.parametrize("multi_class", ["softmax", "one_vs_rest"])
def test_names_of_classes_probabilities_and_reasons(multi_class):
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = kilter.GradientBoostingClassifier(multi_class=multi_class, n_estimators=20).fit(X, names)
    assert model.classes_.tolist() == model.model_.classes == ["setosa", "versicolor", "virginica"]
    assert set(model.predict(X)) == set(names) and (model.predict(X) == names).mean() > 0.95
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (150, 3) and np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    contributions, base = model.explain(X)
    assert contributions.shape == (150, 4, 3) and base.shape == (3,)
    assert np.allclose(contributions.sum(axis=1) + base, model.decision_function(X), atol=1e-9)
    assert np.array_equal(model.score_one(X.iloc[70].to_dict()), probabilities[70])
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), probabilities)
    assert model.feature_importances_.sum() == pytest.approx(1.0) and model.n_estimators_ == 20
    with pytest.raises(ValueError, match="multi_class"):
        kilter.GradientBoostingClassifier(multi_class="pairs").fit(X, names)


def test_files_of_several_classes(tmp_path):
    X, y = load_iris(return_X_y=True)
    model = kilter.GradientBoostingClassifier(n_estimators=5).fit(X, y).model_
    model.save(tmp_path / "model.kltm")
    again = kilter.ClassModel.load(tmp_path / "model.kltm")
    assert np.array_equal(again.margins(X), model.margins(X)) and again.link == "softmax"
    with pytest.raises(ValueError, match="3 classes"):
        kilter.Model.load(tmp_path / "model.kltm")
    kilter.GradientBoostingClassifier(n_estimators=5).fit(X, y > 0).model_.save(tmp_path / "one.kltm")
    with pytest.raises(ValueError, match="one.kltm.*one output"):
        kilter.ClassModel.load(tmp_path / "one.kltm")
    for name in ["lightgbm-4.7.0-multiclass.txt", "xgboost-3.2.0-multiclass.json"]:
        foreign = kilter.ClassModel.load(FOREIGN / name)
        assert foreign.classes == ["0", "1", "2"] and foreign.probabilities(np.zeros((2, 4))).shape == (2, 3)


def test_weights_validation_and_frames():
    X, y = load_iris(return_X_y=True)
    model = kilter.GradientBoostingClassifier(n_estimators=200, early_stopping=True, n_iter_no_change=5)
    model.fit(X[::2], y[::2], eval_set=(X[1::2], y[1::2]))
    report = model.report_["members"][0]["report"]
    assert report["stopped_early"] and report["validation_rows"] == 75
    # Weight of a class moves what is promised to it.
    even = kilter.GradientBoostingClassifier(n_estimators=5).fit(X, y).predict_proba(X).mean(axis=0)
    heavy = kilter.GradientBoostingClassifier(n_estimators=5, class_weight={0: 1, 1: 20, 2: 1}).fit(X, y).predict_proba(X).mean(axis=0)
    assert heavy[1] > even[1] + 0.05
    frame = pd.DataFrame(X, columns=list("abcd"))
    by_name = kilter.GradientBoostingClassifier(n_estimators=5).fit(frame, y)
    assert np.array_equal(by_name.model_.margins(frame[list("dcba")]), by_name.model_.margins(frame))
    with pytest.raises(ValueError, match="weight 0"):
        model.fit(X, y, sample_weight=(y != 1).astype(float))


def test_few_rows_of_several_classes_are_not_calibrated():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="it needs 200, and 10 of each class"):
        kilter.CalibratedModel(kilter.GradientBoostingClassifier(n_estimators=2)).fit(X, y)
