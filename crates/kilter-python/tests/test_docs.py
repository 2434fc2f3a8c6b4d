"""Examples in docstrings run; type stubs and the module name the same things."""

import ast
import doctest
import importlib
import inspect
import pathlib

import kilter
import pytest
from kilter import _native


@pytest.mark.parametrize("module", ["kilter", "kilter._boosting", "kilter._calibration", "kilter._explainable", "kilter._forest", "kilter._isolation", "kilter._kmeans", "kilter._linear", "kilter._online", "kilter._prepared", "kilter._ranking", "kilter._scorecard"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert found.attempted > 0 and found.failed == 0


def test_stubs_name_what_is_there():
    stub = ast.parse((pathlib.Path(kilter.__file__).parent / "_native.pyi").read_text())
    for name in ["ClassModel", "Model", "OnlineModel", "StatePlan", "TrainingPlan"]:
        [model] = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == name]
        told = {node.name for node in model.body if isinstance(node, ast.FunctionDef)} - {"__init__"}
        told |= {node.target.id for node in model.body if isinstance(node, ast.AnnAssign)}
        there = {name for name in vars(getattr(_native, name)) if not name.startswith("__")} | {"__reduce__"}
        assert told | {"__reduce__"} == there


def test_the_stub_of_spark_has_its_parameters():
    from kilter import spark

    stub = ast.parse((pathlib.Path(kilter.__file__).parent / "spark.pyi").read_text())
    functions = {node.name: node.args for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert set(functions) == set(spark.__all__)
    for name, told in functions.items():
        there = inspect.signature(getattr(spark, name)).parameters
        assert [argument.arg for argument in [*told.args, *told.kwonlyargs]] == list(there), name
        assert [ast.literal_eval(d) for d in told.kw_defaults] == [p.default for p in there.values() if p.kind is p.KEYWORD_ONLY], name


def test_the_packages_stub_has_the_estimators_with_their_parameters_and_methods():
    stub = ast.parse((pathlib.Path(kilter.__file__).parent / "__init__.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    estimators = {name for name in kilter.__all__ if isinstance(getattr(kilter, name), type)} - {"ClassModel", "Model", "OnlineModel"}
    assert {name for name in classes if not name.startswith("_")} == estimators
    for name in estimators:
        functions = {node.name: node for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        told = functions["__init__"].args
        there = inspect.signature(getattr(kilter, name)).parameters
        assert [argument.arg for argument in [*told.args[1:], *told.kwonlyargs]] == list(there), name
        defaults = [ast.literal_eval(default) for default in [*told.defaults, *told.kw_defaults]]
        assert defaults == [parameter.default for parameter in there.values()], name
        bases = [base.id for base in classes[name].bases if base.id in classes]
        while bases:
            node = classes[bases.pop()]
            functions |= {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
            bases += [base.id for base in node.bases if base.id in classes]
        assert all(hasattr(getattr(kilter, name), function) for function in functions), name


def test_everything_public_is_listed():
    forests = {"ExtraTreesClassifier", "ExtraTreesRegressor", "RandomForestClassifier", "RandomForestRegressor"}
    boosting = {f"{kind}Boosting{task}" for kind in ("Explainable", "Gradient") for task in ("Classifier", "Regressor")}
    lines = {"ElasticNet", "LinearRegression", "LogisticRegression", "Ridge"}
    streams = {"HoeffdingAdaptiveTreeClassifier", "OnlineLogisticRegression"}
    prepared = {"PreparedModel", "TextHasher"}
    estimators = {"CalibratedModel", "GradientBoostingRanker", "IsolationForest", "KMeans", "Scorecard", *boosting, *forests, *lines, *streams, *prepared}
    models = {"ClassModel", "Model", "OnlineModel"}
    assert {*models, *estimators} <= set(dir(kilter))
    assert set(kilter.__all__) == {"__version__", *models, *estimators}
    with pytest.raises(AttributeError, match="GradientBoosting'"):
        kilter.GradientBoosting
