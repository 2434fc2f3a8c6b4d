"""Ranking within queries."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import ndcg_score


def queries(count=200, seed=0):
    """Rows of queries of 5 to 30, with labels 0 to 4 that two columns decide; each row's query."""
    rng = np.random.default_rng(seed)
    qid = np.repeat(np.arange(count), rng.integers(5, 31, size=count))
    X = rng.normal(size=(len(qid), 4))
    X[:, 3] = rng.normal(size=count)[qid]
    worth = X[:, 0] + (X[:, 1] > 0) * 1.5 + 0.5 * X[:, 3] + 0.6 * rng.normal(size=len(qid))
    return X, np.clip(np.floor(worth + 1), 0, 4).astype(int), qid


SMALL = kilter.GradientBoostingRanker(n_estimators=20)


def test_learns_to_rank_and_says_how_well_as_scikit_learn_does():
    (X, y, qid), (X_new, y_new, qid_new) = queries(), queries(seed=1)
    model = clone(SMALL).fit(X, y, qid=qid)
    scores = model.predict(X_new)
    own = [ndcg_score([2.0 ** y_new[qid_new == q] - 1], [scores[qid_new == q]], k=10) for q in np.unique(qid_new) if y_new[qid_new == q].max() > 0]
    assert model.score(X_new, y_new, qid=qid_new) == pytest.approx(np.mean(own), abs=1e-12) and np.mean(own) > 0.85
    assert clone(SMALL).set_params(eval_at=3, label_gain=[0, 1, 2, 3, 4]).fit(X, y, qid=qid).score(X_new, y_new, qid=qid_new) > 0.8


def test_queries_are_told_by_size_or_by_row_in_any_order():
    X, y, qid = queries()
    sizes = np.bincount(qid)
    by_size, by_row = clone(SMALL).fit(X, y, group=sizes), clone(SMALL).fit(X, y, qid=[f"q{q}" for q in qid])
    assert by_size.model_.to_bytes() == by_row.model_.to_bytes()
    # Rows of the queries between each other: each query is found, its rows in their order.
    order = np.argsort(np.concatenate([np.arange(size) for size in sizes]), kind="stable")
    mixed = clone(SMALL).fit(X[order], y[order], np.ones(len(y)), qid=qid[order])
    assert mixed.model_.to_bytes() == clone(SMALL).fit(X, y, np.ones(len(y)), qid=qid).model_.to_bytes()
    assert mixed.score(X[order], y[order], qid=qid[order]) == pytest.approx(mixed.score(X, y, group=sizes))


def test_ndcg_of_watched_queries_decides_when_to_stop():
    (X, y, qid), (X_new, y_new, qid_new) = queries(), queries(seed=1)
    model = kilter.GradientBoostingRanker(n_estimators=300, learning_rate=0.3, early_stopping=True, n_iter_no_change=10, eval_at=5)
    model.fit(X, y, qid=qid, eval_set=(X_new, y_new), eval_qid=qid_new)
    told = model.report_["report"]["metric"]
    assert told["name"] == "ndcg@5" and model.n_estimators_ == int(np.argmax(told["values"])) + 1 < 300
    assert model.score(X_new, y_new, qid=qid_new) == pytest.approx(max(told["values"]), abs=1e-12)
    held_out = clone(model).fit(X, y, qid=qid).report_["report"]
    assert held_out["rows"] + held_out["validation_rows"] == len(y) and held_out["rows"] in np.cumsum(np.bincount(qid))
    best = lambda y, scores, weight, group: ("first", float(np.mean([y[start + scores[start : start + size].argmax()] for start, size in zip(np.cumsum(group) - group, group)])), True)
    assert clone(model).fit(X, y, qid=qid, eval_metric=best).report_["report"]["metric"]["name"] == "first"


def test_files_frames_threads_continuing_and_refitting():
    X, y, qid = queries()
    frame = pd.DataFrame(X, columns=list("abcd"))
    model, many = (clone(SMALL).set_params(n_jobs=n).fit(frame, y, qid=qid) for n in (1, 4))
    assert model.model_.to_bytes() == many.model_.to_bytes() and model.model_.link == "identity"
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(frame), model.predict(frame))
    halves = clone(SMALL).set_params(n_estimators=10).fit(frame, y, qid=qid)
    assert np.array_equal(clone(halves).fit(frame, y, qid=qid, init_model=halves).predict(frame), model.predict(frame))
    before = model.predict(frame)
    assert np.array_equal(model.refit(frame, y, qid=qid, decay_rate=0.0).predict(frame), before)
    reverse = model.refit(frame, 4 - y, qid=qid, decay_rate=0.0)
    assert np.corrcoef(reverse.predict(frame), before)[0, 1] < -0.5
    contributions, base = model.explain(frame)
    np.testing.assert_allclose(base + contributions.sum(axis=1), model.predict(frame), atol=1e-9)
    directed = clone(SMALL).set_params(monotonic_cst={"a": 1}).fit(frame, y, qid=qid)
    assert directed.report_["report"]["certificate"]["columns"] == 1


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "give either group"),
        ({"group": [3], "qid": [0]}, "give either group"),
        ({"group": [2, 3]}, "5 rows together, but there are"),
        ({"group": [0.5]}, "whole numbers of at least 1"),
        ({"qid": [1, 2]}, "one value a row"),
        ({"group": "all", "label": 2.5}, "labels must be a whole number"),
        ({"group": "all", "label": 31}, "label_gain"),
        ({"group": "all", "eval_set": True}, "give either eval_group"),
        ({"group": "all", "truncation_level": 0}, "lambda_rank.truncation is 0"),
        ({"group": "all", "label_gain": [3, 2, 1, 1, 1]}, "label_gain is .* not falling"),
    ],
)
def test_what_is_wrong_is_told(given, message):
    X, y, _ = queries(20)
    y = y.astype(float)
    if given.get("group") == "all":
        given = given | {"group": [len(y)]}
    y[3] = given.pop("label", y[3]) if "label" in (given := dict(given)) else y[3]
    if given.get("eval_set"):
        given["eval_set"] = (X, y)
    of_model = {name: given.pop(name) for name in list(given) if name in SMALL.get_params()}
    with pytest.raises(ValueError, match=message):
        clone(SMALL).set_params(**of_model).fit(X, y, **given)


def test_other_names_of_parameters():
    model = kilter.GradientBoostingRanker(num_leaves=7, lambdarank_truncation_level=20, lambdarank_norm=False, ndcg_eval_at=3)
    assert (model.max_leaf_nodes, model.truncation_level, model.normalize, model.eval_at) == (7, 20, False, 3)
    assert model.set_params(num_trees=3).n_estimators == 3
    with pytest.raises(TypeError, match="GradientBoostingRanker has no parameter 'trunkation_level'; did you mean 'truncation_level'"):
        kilter.GradientBoostingRanker(trunkation_level=3)
