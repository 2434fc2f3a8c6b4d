"""Credit scorecards."""

from sklearn.utils.validation import check_is_fitted

from ._base import BinaryClassifier
from ._parameters import accepting

_ALIASES = {
    "max_n_bins": "max_bins",
    "max_n_prebins": "max_prebins",
    "prebins": "max_prebins",
    "min_bin_size": "min_share",
    "monotonic_trend": "shape",
    "user_splits": "cuts",
    "special_codes": "special",
    "lambda_l2": "l2_regularization",
    "reg_lambda": "l2_regularization",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


class Scorecard(BinaryClassifier):
    """A points table: each feature is cut into bins, each bin gives points, and the sum of points is the score. The ``scorecard`` of Kilter's
    definitions.

    Bins are those with the most information value within the limits; a logistic regression over their weights of evidence gives the points.
    More points mean fewer of ``classes_[1]``. Missing values are a bin of their own. A feature whose coefficient would have the wrong sign is left
    out, so that a bin with more of ``classes_[1]`` never gets more points. optbinning's names of parameters are accepted as well.

    Parameters
    ----------
    max_bins : int, default=8
        Most bins of a feature, not counting those for missing and special values.
    min_share : float, default=0.05
        Least share of a feature's plain values in a bin.
    max_prebins : int, default=100
        Parts of equal size that bins are merged from.
    shape : str, default="auto"
        How the share of ``classes_[1]`` may move over the bins of a feature: ``"auto"`` (rising or falling, what tells more), ``"increasing"``,
        ``"decreasing"``, ``"peak"``, ``"valley"``, ``"any"``.
    shapes : dict by feature name, default=None
        The shape of single features.
    cuts : dict by feature name, default=None
        Bins by hand: upper bounds, each belonging to its bin.
    special : dict by feature name, default=None
        Values that are codes and no quantities: each is a bin of its own.
    min_iv : float, default=0.02
        Features with less information value are left out.
    l2_regularization : float, default=1.0
    pdo : float, default=20.0
        Points that double the odds.
    base_points : float, default=600.0
    base_odds : float, default=50.0
        Of ``classes_[0]`` to one of ``classes_[1]`` at ``base_points``.
    reasons : {"maximum", "mean"}, default="maximum"
        What ``explain`` counts from: the best bin of each feature, or the mean over the training rows.
    class_weight : dict or "balanced" or None, default=None
    n_jobs : int or None, default=None

    Attributes
    ----------
    classes_ : array of the two classes
    model_ : kilter.Model
    table_ : list of dicts, a feature each, with its bins and their points
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from kilter import Scorecard
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({"income": rng.uniform(1, 9, 2000), "debt": rng.uniform(0, 1, 2000)})
    >>> y = rng.uniform(size=2000) < 1 / (1 + np.exp(X["income"] - 4 * X["debt"]))
    >>> card = Scorecard(max_bins=4).fit(X, y)
    >>> rich, poor = card.points(pd.DataFrame({"income": [8.0, 2.0], "debt": [0.1, 0.9]}))
    >>> bool(rich > poor)
    True
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        max_bins=8,
        min_share=0.05,
        max_prebins=100,
        shape="auto",
        shapes=None,
        cuts=None,
        special=None,
        min_iv=0.02,
        l2_regularization=1.0,
        pdo=20.0,
        base_points=600.0,
        base_odds=50.0,
        reasons="maximum",
        class_weight=None,
        n_jobs=None
    ):
        self.max_bins = max_bins
        self.min_share = min_share
        self.max_prebins = max_prebins
        self.shape = shape
        self.shapes = shapes
        self.cuts = cuts
        self.special = special
        self.min_iv = min_iv
        self.l2_regularization = l2_regularization
        self.pdo = pdo
        self.base_points = base_points
        self.base_odds = base_odds
        self.reasons = reasons
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def _learner(self, columns):
        return {
            "kind": "scorecard",
            "max_bins": self.max_bins,
            "min_share": self.min_share,
            "prebins": self.max_prebins,
            "shape": self.shape,
            "shapes": dict(self.shapes or {}),
            "cuts": _numbers(self.cuts),
            "special": _numbers(self.special),
            "min_iv": self.min_iv,
            "l2": self.l2_regularization,
            "pdo": self.pdo,
            "base_points": self.base_points,
            "base_odds": self.base_odds,
            "reasons": self.reasons,
        }

    def points(self, X):
        """The score of each row in points."""
        check_is_fitted(self)
        return self.model_.points(self._features(X), threads=self._n_threads())

    @property
    def table_(self):
        """The points table: what each bin of each feature gives."""
        return self.report_["features"]


def _numbers(by_name):
    return {name: [float(value) for value in values] for name, values in (by_name or {}).items()}
