"""Files of LightGBM and XGBoost, whose own scores lie beside them, and Kilter's trees as LightGBM's file."""

import json

import kilter
import numpy as np
import pytest
from data import FOREIGN, amounts, classes

MODELS = sorted(path.name for path in FOREIGN.iterdir() if path.suffix in (".txt", ".ubj", ".onnx", ".json") and "rows" not in path.name)
# Those of several classes are in test_classes.py.
ONE_OUTPUT = [name for name in MODELS if "multiclass" not in name]
FILES = [name for name in ONE_OUTPUT if name.startswith(("lightgbm", "xgboost"))]
OTHERS = [name for name in ONE_OUTPUT if name not in FILES]


def test_there_are_files():
    assert len(FILES) >= 9 and len(OTHERS) >= 12


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_catboost_and_converters_score_what_they_scored_there(name):
    model = kilter.Model.load(FOREIGN / name)
    told = json.loads((FOREIGN / (name.rsplit(".", 1)[0] + ".rows.json")).read_text())
    X = np.array([[np.nan if value is None else value for value in row] for row in told["rows"]])
    line = model.kind == "onnx_line"
    margins = {"catboost": model.margins, "onnx": model.margins, "onnx_line": model.predictions}[model.kind](X)
    np.testing.assert_allclose(margins, told["predictions" if line else "margins"], rtol=1e-5 if line else 2e-7)
    contributions, base = model.explain(X)
    np.testing.assert_allclose(base + contributions.sum(axis=1), model.margins(X), atol=1e-6)
    assert np.array_equal(kilter.Model.from_bytes(model.to_bytes()).margins(X), model.margins(X))


@pytest.mark.parametrize("name", FILES)
def test_models_of_other_programs_score_what_they_scored_there(name):
    model = kilter.Model.load(FOREIGN / name)
    told = json.loads((FOREIGN / (name.rsplit(".", 1)[0] + ".rows.json")).read_text())
    X = np.array([[np.nan if value is None else value for value in row] for row in told["rows"]])
    assert model.kind == name.split("-")[0] and model.link == "logit"
    assert np.array_equal(model.margins(X), told["margins"])
    again = kilter.Model.from_bytes(model.to_bytes())
    assert np.array_equal(again.margins(X), told["margins"])
    contributions, base = model.explain(X)
    np.testing.assert_allclose(base + contributions.sum(axis=1), told["margins"], atol=1e-6)
    assert json.loads(model.describe_json())["origin"]["program"] == model.kind


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.txt"
    text = (FOREIGN / "lightgbm-4.7.0.txt").read_text()
    path.write_text(text.replace("num_class=1", "num_class=3"))
    with pytest.raises(ValueError, match="model.txt: LightGBM model, line 3.*several outputs"):
        kilter.Model.load(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="ends before|announced|expected"):
        kilter.Model.load(path)


def test_boosted_trees_are_written_for_lightgbm():
    X, y = classes(1_000)
    model = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y).model_
    again = kilter.Model.from_bytes(model.to_lightgbm().encode())
    assert again.kind == "lightgbm" and np.array_equal(again.margins(X), model.margins(X))
    X, y = amounts(1_000)
    counts = kilter.GradientBoostingRegressor(loss="poisson", n_estimators=20).fit(X, y).model_
    assert np.array_equal(kilter.Model.from_bytes(counts.to_lightgbm().encode()).margins(X), counts.margins(X))
    with pytest.raises(ValueError, match='"logistic"'):
        kilter.LogisticRegression().fit(*classes(200)).model_.to_lightgbm()


def test_models_are_written_for_other_programs(tmp_path):
    X, y = classes(1_000)
    trees, line = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y).model_, kilter.LogisticRegression().fit(X, y).model_
    again = kilter.Model.from_bytes(trees.to_bytes(format="xgboost-json"))
    assert again.kind == "xgboost"
    single = X.astype(np.float32)
    np.testing.assert_allclose(again.margins(single), trees.margins(single), atol=1e-5)
    line.save(tmp_path / "line.onnx", format="onnx")
    assert (tmp_path / "line.onnx").read_bytes() == line.to_bytes(format="onnx") != line.to_bytes() == line.to_bytes(format="kilter")
    card = kilter.Scorecard().fit(X, y).model_
    assert card.to_bytes(format="pmml").startswith(b"<?xml")
    with pytest.raises(ValueError, match="PMML has no way"):
        trees.to_bytes(format="pmml")
    with pytest.raises(ValueError, match='format is "onnxx"; there are kilter, lightgbm'):
        trees.save(tmp_path / "x", format="onnxx")
