"""Linear models."""

from ._base import BinaryClassifier
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
