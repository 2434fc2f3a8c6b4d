"""Examples in docstrings run; type stubs and the module name the same things."""

import ast
import doctest
import importlib
import pathlib

import kilter
import pytest
from kilter import _native


@pytest.mark.parametrize("module", ["kilter", "kilter._boosting", "kilter._linear"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert found.attempted > 0 and found.failed == 0


def test_stubs_name_what_is_there():
    stub = ast.parse((pathlib.Path(kilter.__file__).parent / "_native.pyi").read_text())
    [model] = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "Model"]
    told = {node.name for node in model.body if isinstance(node, ast.FunctionDef)}
    told |= {node.target.id for node in model.body if isinstance(node, ast.AnnAssign)}
    there = {name for name in vars(_native.Model) if not name.startswith("__")} | {"__reduce__"}
    assert told == there


def test_everything_public_is_listed():
    assert {"Model", "GradientBoostingClassifier", "LogisticRegression"} <= set(dir(kilter))
    with pytest.raises(AttributeError, match="GradientBoosting'"):
        kilter.GradientBoosting
