"""Linear models."""

from ._base import BinaryClassifier
from ._parameters import accepting

_ALIASES = {"max_iterations": "max_iter", "tolerance": "tol"}


class LogisticRegression(BinaryClassifier):
    """Logistic regression with an L2 penalty, fitted by Newton's method: the ``logistic`` of Kilter's definitions.

    Columns are standardised inside the model, so ``C`` means the same for all of them; scikit-learn's standardises nothing. A missing
    value counts as its column's training mean.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the penalty, as in scikit-learn, on standardised columns.
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
    def __init__(self, *, C=1.0, max_iter=50, tol=1e-8, class_weight=None, n_jobs=None):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def _learner(self, columns):
        if not self.C > 0:
            raise ValueError(f"C is {self.C}, but must be above 0")
        return {"kind": "logistic", "l2": 1.0 / self.C, "max_iterations": self.max_iter, "tolerance": self.tol}

    @property
    def n_iter_(self):
        """Steps that were taken."""
        return self.report_["report"]["iterations"]
