"""Linear models."""

import numpy as np

from ._base import BinaryClassifier, Regressor
from ._parameters import accepting

_ALIASES = {"max_iterations": "max_iter", "tolerance": "tol"}


class LogisticRegression(BinaryClassifier):
    """Logistic regression with L1 and L2 penalties, fitted by Newton's method: the ``logistic`` of Kilter's definitions.

    Columns are standardised inside the model, so ``C`` means the same for all of them; scikit-learn's standardises nothing. A missing
    value counts as its column's training mean.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the penalty, as in scikit-learn, on standardised columns.
    l1_ratio : float, default=0.0
        Share of the penalty that is L1, as in scikit-learn: 0 is ridge, 1 is lasso, between them elastic net. Coefficients of columns that do
        not help become exactly 0.
    max_iter : int, default=50
    tol : float, default=1e-8
        Stop when no coefficient moves by more than this.
    class_weight : dict or "balanced" or None, default=None
    n_jobs : int or None, default=None

    Examples
    --------
    >>> from kilter import LogisticRegression
    >>> LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[0.5], [2.5]])
    array([0, 1])
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(self, *, C=1.0, l1_ratio=0.0, max_iter=50, tol=1e-8, class_weight=None, n_jobs=None):
        self.C = C
        self.l1_ratio = l1_ratio
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def _learner(self, columns):
        if not self.C > 0:
            raise ValueError(f"C is {self.C}, but must be above 0")
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio is {self.l1_ratio}, but must be between 0 and 1")
        penalties = {"l1": self.l1_ratio / self.C, "l2": (1.0 - self.l1_ratio) / self.C}
        return {"kind": "logistic", **penalties, "max_iterations": self.max_iter, "tolerance": self.tol}

    @property
    def n_iter_(self):
        """Steps that were taken."""
        return self.report_["report"]["iterations"]


class _LinearRegressor(Regressor):
    """What the regressions have in common. Missing values count as their column's training mean."""

    _aliases = _ALIASES
    max_iter = 50
    tol = 1e-8

    def _penalties(self, rows):
        """L1 and L2 beside half the sum of squared errors over so many rows, on standardised columns."""
        raise NotImplementedError

    def _fit_native(self, rows, validation=None):
        X, _, weights = rows
        # A row counts as often as it weighs, also for penalties that are told for one row.
        self._rows_ = len(X) if weights is None else float(weights.sum())
        super()._fit_native(rows, validation)

    def _learner(self, columns):
        l1, l2 = self._penalties(self._rows_)
        return {"kind": "linear", "l1": l1, "l2": l2, "max_iterations": self.max_iter, "tolerance": self.tol}

    def _at_least(self, name, least=0.0):
        value = getattr(self, name)
        if not (np.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value}, but must be a finite number not below {least:g}")
        return float(value)

    @property
    def coef_(self):
        """What the prediction gains for each unit of a column."""
        return np.array(self.report_["coefficients"])

    @property
    def intercept_(self):
        """The prediction for a row of zeros."""
        return self.report_["intercept"]

    @property
    def n_iter_(self):
        """Steps that were taken."""
        return self.report_["report"]["iterations"]


class LinearRegression(_LinearRegressor):
    """Least squares. A missing value counts as its column's training mean.

    Where columns are sums of others, or more than the rows, many lines fit the rows equally well: one of them is found, another one than
    scikit-learn's. ``Ridge`` settles the question.

    Parameters
    ----------
    n_jobs : int or None, default=None

    Attributes
    ----------
    coef_, intercept_, model_, n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> from kilter import LinearRegression
    >>> LinearRegression().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]).predict([[3.0]]).round(6)
    array([7.])
    """

    @accepting({})
    def __init__(self, *, n_jobs=None):
        self.n_jobs = n_jobs

    _aliases = {}

    def _penalties(self, rows):
        return 0.0, 0.0


class Ridge(_LinearRegressor):
    """Least squares with an L2 penalty on standardised columns; scikit-learn's standardises nothing.

    Parameters
    ----------
    alpha : float, default=1.0
        Penalty ``alpha * sum(coefficient ** 2)`` beside the sum of squared errors, as in scikit-learn.
    max_iter : int, default=50
    tol : float, default=1e-8
        Stop when no standardised coefficient moves by more than this.
    n_jobs : int or None, default=None

    Attributes
    ----------
    coef_, intercept_, n_iter_, model_, n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> from kilter import Ridge
    >>> free, bound = (Ridge(alpha=alpha).fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]) for alpha in (0.0, 3.0))
    >>> free.coef_.round(6), bound.coef_.round(6)
    (array([2.]), array([1.]))
    """

    _aliases = _ALIASES | {"l2_regularization": "alpha", "reg_lambda": "alpha", "lambda_l2": "alpha"}

    @accepting(_aliases)
    def __init__(self, *, alpha=1.0, max_iter=50, tol=1e-8, n_jobs=None):
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs

    def _penalties(self, rows):
        return 0.0, self._at_least("alpha")


class ElasticNet(_LinearRegressor):
    """Least squares with L1 and L2 penalties on standardised columns: coefficients of columns that do not help become exactly 0.

    Parameters
    ----------
    alpha : float, default=1.0
        The penalty for each row, as in scikit-learn.
    l1_ratio : float, default=0.5
        Share of it that is L1: 0 is ridge, 1 is lasso.
    max_iter : int, default=1000
    tol : float, default=1e-8
        Stop when no standardised coefficient moves by more than this.
    n_jobs : int or None, default=None

    Attributes
    ----------
    coef_, intercept_, n_iter_, model_, n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import ElasticNet
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> ElasticNet(alpha=0.1, l1_ratio=1.0).fit(X, 2 * X[:, 0]).coef_.round(1)
    array([1.9, 0. , 0. ])
    """

    @accepting(_ALIASES)
    def __init__(self, *, alpha=1.0, l1_ratio=0.5, max_iter=1000, tol=1e-8, n_jobs=None):
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs

    def _penalties(self, rows):
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio is {self.l1_ratio}, but must be between 0 and 1")
        whole = self._at_least("alpha") * rows
        return whole * self.l1_ratio, whole * (1.0 - self.l1_ratio)
