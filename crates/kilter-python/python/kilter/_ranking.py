"""Boosted trees that rank rows within queries."""

import json
from inspect import signature

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _native, _own
from ._base import Learned
from ._boosting import _ALIASES, GradientBoostingRegressor, _Boosting, _earlier
from ._parameters import constructor

_RANKING = {"truncation_level": 30, "normalize": True, "sigmoid": 1.0, "label_gain": None, "eval_at": 10}
_OF_LOSSES = {"loss", "quantile", "delta", "tweedie_power"}
_TREES = {name: p.default for name, p in signature(GradientBoostingRegressor).parameters.items() if name not in _OF_LOSSES}
_RANKER_ALIASES = _ALIASES | {
    "lambdarank_truncation_level": "truncation_level",
    "lambdarank_norm": "normalize",
    "ndcg_eval_at": "eval_at",
    "ndcg_at": "eval_at",
}


class GradientBoostingRanker(_Boosting, Learned):
    __doc__ = """Gradient boosting that ranks rows within queries (lambdarank): what a search answers, or which cases to look at first.

    Rows of a query are pushed apart in pairs, each pair by how much its exchange would change NDCG. ``y`` holds whole numbers from 0 on, the
    better the higher. What is predicted is a score to rank by, within a query. The same rows, parameters and seed give the same model, to the
    last bit, on any number of threads. LightGBM's names of parameters are accepted as well.

    Parameters
    ----------
    truncation_level : int, default=30
        A pair counts if one of the two is among so many first rows of its query.
    normalize : bool, default=True
        Evens out queries, and weighs pairs more whose scores are near each other.
    sigmoid : float, default=1.0
        Slope of the chance that a pair is the wrong way round.
    label_gain : list of floats, default=None
        What labels 0, 1, 2, ... are worth; ``None`` is 2 ** label - 1, for labels up to 30.
    eval_at : int, default=10
        NDCG of so many first rows is watched, and decides when to stop.
{trees}
    Attributes
    ----------
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import GradientBoostingRanker
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 3))
    >>> query = np.repeat(np.arange(200), 10)
    >>> y = np.clip(np.round(X[:, 0] + 0.5 * rng.normal(size=2000) + 1), 0, 3).astype(int)
    >>> model = GradientBoostingRanker(n_estimators=30).fit(X[:1500], y[:1500], qid=query[:1500])
    >>> bool(model.score(X[1500:], y[1500:], qid=query[1500:]) > 0.85)
    True
    """.replace("{trees}", GradientBoostingRegressor.__doc__[GradientBoostingRegressor.__doc__.index("    n_estimators :") : GradientBoostingRegressor.__doc__.index("    Attributes\n")].rstrip() + "\n")

    _aliases = _RANKER_ALIASES
    __init__ = constructor(_RANKING | _TREES, _RANKER_ALIASES)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit(
        self, X, y, sample_weight=None, *, group=None, qid=None, eval_set=None, eval_group=None, eval_qid=None, eval_metric=None, init_model=None
    ):
        """Learns from ``X`` (n_samples, n_features; NaN is missing) and labels ``y`` (whole numbers from 0 on).

        ``group``: how many rows each query has, one after the other; or ``qid``: each row's query, in any order. ``eval_set=(X, y)`` with
        ``eval_group`` or ``eval_qid``: rows to watch NDCG on; with early stopping they decide when to stop. Without them the last queries are
        held out. ``eval_metric`` and ``init_model``: see ``GradientBoostingRegressor.fit``.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False, y_numeric=True)
        weight = self._weights(X, sample_weight)
        rows, groups = _by_query((X, np.asarray(y, dtype=np.float64), weight), group, qid, "")
        validation, watched = None, None
        if eval_set is not None:
            later, labels, *weight = eval_set
            later = self._features(later)
            validation = (later, np.asarray(labels, dtype=np.float64), self._weights(later, *(weight or [None])))
            validation, watched = _by_query(validation, eval_group, eval_qid, "eval_")
        names = getattr(self, "feature_names_in_", None)
        self.model_ = _native.fit(
            json.dumps(self._learner(X.shape[1]) | {"label_gain": self._label_gain()}),
            rows,
            names=None if names is None else list(names),
            validation=validation,
            threads=self._n_threads(),
            groups=groups,
            validation_groups=watched,
            metric=_own.metric(eval_metric or self._ndcg),
            init_model=_earlier(init_model),
        )
        return self

    def refit(self, X, y, sample_weight=None, *, decay_rate=0.9, group=None, qid=None):
        """Learns the values of the leaves anew from other rows, and keeps the splits.

        A leaf becomes ``decay_rate`` times its value plus the rest times what these rows make of it, tree by tree; one that no row reaches
        keeps its value. Returns the estimator with another ``model_``.
        """
        check_is_fitted(self)
        X = self._features(X)
        rows = (X, np.asarray(y, dtype=np.float64), self._weights(X, sample_weight))
        rows, groups = _by_query(rows, group, qid, "")
        return self._refit(rows, decay_rate, groups)

    def predict(self, X):
        """A score for each row: the higher, the further up it belongs among the rows of its query."""
        check_is_fitted(self)
        return self.model_.margins(self._features(X), threads=self._n_threads())

    def score(self, X, y, *, group=None, qid=None):
        """Mean NDCG of the first ``eval_at`` rows of each query that has a label above 0; rows of equal score count as the mean of their orders."""
        scores = self.predict(X)
        (_, y, scores), groups = _by_query((scores[:, None], np.asarray(y, dtype=np.float64), scores), group, qid, "")
        return _native.ndcg(scores, y, groups, self.eval_at, label_gain=self._label_gain() or None)

    def _ndcg(self, y, scores, weight, group):
        value = _native.ndcg(scores, y, group.tolist(), self.eval_at, label_gain=self._label_gain() or None)
        return f"ndcg@{self.eval_at}", value, True

    def _label_gain(self):
        return [] if self.label_gain is None else [float(gain) for gain in self.label_gain]

    def _objective(self):
        return {"lambda_rank": {"truncation": self.truncation_level, "normalise": self.normalize, "sigmoid": self.sigmoid}}


def _by_query(rows, group, qid, prefix):
    """The rows with those of one query side by side, and how many each query has."""
    if (group is None) == (qid is None):
        raise ValueError(f"give either {prefix}group, the sizes of the queries, or {prefix}qid, the query of each row")
    if qid is None:
        sizes = np.asarray(group)
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
            raise ValueError(f"{prefix}group must be whole numbers of at least 1: how many rows each query has")
        if sizes.sum() != len(rows[1]):
            raise ValueError(f"{prefix}group has sizes of {sizes.sum()} rows together, but there are {len(rows[1])}")
        return rows, sizes.tolist()
    qid = np.asarray(qid)
    if qid.shape != (len(rows[1]),):
        raise ValueError(f"{prefix}qid must have one value a row, {len(rows[1])}; its shape is {qid.shape}")
    _, first, query, sizes = np.unique(qid, return_index=True, return_inverse=True, return_counts=True)
    by_appearance = np.argsort(first)
    order = np.argsort(first[query], kind="stable")
    return tuple(None if part is None else np.ascontiguousarray(part[order]) for part in rows), sizes[by_appearance].tolist()
