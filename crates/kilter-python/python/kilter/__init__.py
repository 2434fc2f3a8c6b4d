"""Kilter's learners and models in Python.

``kilter.Model`` loads and scores model files, those of the Kilter program, LightGBM, XGBoost, CatBoost and ONNX, and ``kilter.ClassModel`` those that
tell more than two classes apart, and ``kilter.OnlineModel`` goes on learning from streams; they need nothing but NumPy. The estimators
have scikit-learn's API and need scikit-learn 1.6 or newer: ``pip install "scikit-learn>=1.6"``.

>>> import kilter, numpy as np
>>> X = np.arange(400.0).reshape(200, 2)
>>> y = (X[:, 0] > 150).astype(int)
>>> model = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y)
>>> model.predict(X[[0, 199]])
array([0, 1])
"""

from importlib import import_module as _import_module

from ._native import VERSION as __version__
from ._native import ClassModel, Model, OnlineModel

# Loaded when first asked for, so that `import kilter` stays quick where only models are scored.
_ESTIMATORS = {
    "CalibratedModel": "._calibration",
    "ElasticNet": "._linear",
    "ExplainableBoostingClassifier": "._explainable",
    "ExplainableBoostingRegressor": "._explainable",
    "ExtraTreesClassifier": "._forest",
    "ExtraTreesRegressor": "._forest",
    "GradientBoostingClassifier": "._boosting",
    "GradientBoostingRanker": "._ranking",
    "GradientBoostingRegressor": "._boosting",
    "HoeffdingAdaptiveTreeClassifier": "._online",
    "IsolationForest": "._isolation",
    "KMeans": "._kmeans",
    "LinearRegression": "._linear",
    "LogisticRegression": "._linear",
    "OnlineLogisticRegression": "._online",
    "PreparedModel": "._prepared",
    "RandomForestClassifier": "._forest",
    "RandomForestRegressor": "._forest",
    "Ridge": "._linear",
    "Scorecard": "._scorecard",
    "TextHasher": "._prepared",
}
__all__ = ["ClassModel", "Model", "OnlineModel", "__version__", *_ESTIMATORS]


def __getattr__(name):
    if name not in _ESTIMATORS:
        raise AttributeError(f"module 'kilter' has no attribute {name!r}")
    try:
        module = _import_module(_ESTIMATORS[name], __name__)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "sklearn":
            raise ImportError(f'kilter.{name} needs scikit-learn 1.6 or newer: pip install "scikit-learn>=1.6"') from error
        raise
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_ESTIMATORS])
