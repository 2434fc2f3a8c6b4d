"""Steps of preparation, texts and k-means, beside scikit-learn's."""

import pickle

import kilter
import numpy as np
import pytest
from data import amounts, classes
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, PowerTransformer, RobustScaler, StandardScaler
from sklearn.impute import SimpleImputer


def codes(rows=600, seed=0):
    """A column of codes, two skewed numbers, and a label that they decide."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(0, 9, size=rows), rng.exponential(size=rows), -rng.gamma(2.0, size=rows)])
    margin = np.isin(X[:, 0], [1, 4, 6]) * 2.0 + X[:, 1] + X[:, 2]
    return X, (rng.uniform(size=rows) < 1 / (1 + np.exp(-margin))).astype(int)


@pytest.mark.parametrize(
    "step, theirs, columns, within",
    [
        ("scale", StandardScaler(), [0, 1, 2], 1e-9),
        ("power", PowerTransformer(standardize=False), [1, 2], 1e-5),
        ("ordinal", OrdinalEncoder(), [0], 0),
        ({"step": "one_hot", "most": 9}, OneHotEncoder(sparse_output=False), [0], 0),
        ({"step": "widths", "bins": 7}, KBinsDiscretizer(7, encode="ordinal", strategy="uniform", subsample=None), [1, 2], 0),
        ({"step": "pca", "components": 2}, make_pipeline(StandardScaler(), PCA(2)), [0, 1, 2], 1e-9),
        ({"step": "pca", "components": 3, "standardise": False}, PCA(3), [0, 1, 2], 1e-9),
    ],
)
def test_steps_make_what_scikit_learn_makes(step, theirs, columns, within):
    X, y = codes()
    X = X[:, columns]
    ours = kilter.PreparedModel(steps=[step]).fit(X, y).prepare(X)
    np.testing.assert_allclose(ours, theirs.fit_transform(X), atol=within or 1e-12)


def test_a_model_with_its_steps_is_one_model_that_explains_its_features(tmp_path):
    X, y = codes()
    steps = ["impute", {"step": "one_hot", "columns": [0]}, {"step": "power", "columns": ["x1", "x2"]}, "scale"]
    model = kilter.PreparedModel(kilter.LogisticRegression(C=0.5), steps=steps).fit(X, y)
    assert model.prepared_names_.tolist() == [f"x0={code}" for code in range(9)] + ["x1", "x2"]
    model.model_.save(tmp_path / "prepared.kltm")
    loaded = kilter.Model.load(tmp_path / "prepared.kltm")
    np.testing.assert_array_equal(loaded.probabilities(X), model.predict_proba(X)[:, 1])
    contributions, base = model.explain(X)
    assert contributions.shape == X.shape
    np.testing.assert_allclose(base + contributions.sum(axis=1), model.decision_function(X), atol=1e-9)
    encoded = np.hstack([OneHotEncoder(sparse_output=False).fit_transform(X[:, :1]), PowerTransformer(standardize=False).fit_transform(X[:, 1:])])
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(StandardScaler().fit_transform(encoded), y)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(StandardScaler().fit_transform(encoded)), atol=1e-4)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_components_under_trees_and_a_regression_are_explained_too():
    X, y = amounts(800)
    steps = ["impute", {"step": "pca", "components": 3}]
    for estimator in [kilter.GradientBoostingRegressor(n_estimators=20), kilter.Ridge()]:
        model = kilter.PreparedModel(estimator, steps=steps).fit(X, y)
        contributions, base = model.explain(X)
        np.testing.assert_allclose(base + contributions.sum(axis=1), model.predict(X), atol=1e-9)
        assert model.score(X, y) > 0.1 and not hasattr(model, "predict_proba")


def test_steps_are_told():
    X, y = codes(100)
    for steps, message in [
        (["imputer"], "step is 'imputer', but must be one of select, impute"),
        ([{"step": "scale", "how": "robust"}], "step 'scale' has no setting 'how'; it has columns, by"),
        ([{"step": "scale", "columns": ["z"]}], "names the input \"z\""),
        ([{"step": "pca", "components": 9}], "9 of 3 columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            kilter.PreparedModel(steps=steps).fit(X, y)
    with pytest.raises(TypeError, match="estimator is a Scaler|estimator is a StandardScaler"):
        kilter.PreparedModel(StandardScaler()).fit(X, y)
    with pytest.raises(ValueError, match="no steps of preparation"):
        kilter.LogisticRegression().fit(X, y).model_.prepared(X)


def hashed(text, seed, columns):
    """The hash by its definition."""
    mask = (1 << 64) - 1
    value = 0xCBF29CE484222325
    for byte in seed.to_bytes(8, "little") + text.encode():
        value = ((value ^ byte) * 0x100000001B3) & mask
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = ((value ^ (value >> 33)) * multiplier) & mask
    value ^= value >> 33
    return ((value >> 32) * columns) >> 32, -1.0 if value & 1 else 1.0


def test_texts_are_hashed_by_the_definition():
    texts = ["Card payment, card 7", None, "", "überweisung payment"]
    rows = kilter.TextHasher(n_features=32, norm=None, random_state=11).fit_transform(texts)
    expected = np.zeros((4, 32))
    for row, words in [(0, ["card", "payment", "card", "7"]), (3, ["überweisung", "payment"])]:
        for word in words:
            column, sign = hashed(word, 11, 32)
            expected[row, column] += sign
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("analyzer, ngram_range", [("word", (1, 2)), ("char", (2, 4))])
def test_hashed_texts_are_worth_what_scikit_learns_are(analyzer, ngram_range):
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(300)])
    y = rng.integers(0, 2, size=3_000)
    texts = [" ".join(words[np.where(rng.uniform(size=8) < 0.3, rng.integers(0, 20) + 40 * label, rng.integers(0, 300, size=8))]) for label in y]
    score = lambda hasher: LogisticRegression(max_iter=1_000).fit(hasher.transform(texts)[:2_000], y[:2_000]).score(hasher.transform(texts)[2_000:], y[2_000:])
    ours = score(kilter.TextHasher(n_features=1_024, analyzer=analyzer, ngram_range=ngram_range))
    theirs = score(HashingVectorizer(n_features=1_024, analyzer=analyzer, ngram_range=ngram_range))
    assert ours > 0.7 and ours > theirs - 0.03, (ours, theirs)
    for bad, message in [({"analyzer": "line"}, "analyzer is 'line'"), ({"norm": "max"}, "norm is 'max'"), ({"n_features": 0}, "columns is 0"), ({"ngram_range": (2, 1)}, "2 to 1")]:
        with pytest.raises(ValueError, match=message):
            kilter.TextHasher(**bad).fit()


def test_k_means_ends_where_scikit_learn_ends():
    rng = np.random.default_rng(1)
    X = np.vstack([rng.normal(size=(300, 3)) + 6 * place for place in rng.normal(size=(4, 3))]) * [1.0, 50.0, 0.01]
    scaler = StandardScaler().fit(X)
    ours = kilter.KMeans(n_clusters=4, tol=1e-9).fit(X)
    theirs = KMeans(4, n_init=10, tol=1e-9, random_state=0).fit(scaler.transform(X))
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-6)
    order = lambda centres: centres[np.lexsort(centres.T.round(6))]
    np.testing.assert_allclose(order(scaler.transform(ours.cluster_centers_)), order(theirs.cluster_centers_), atol=1e-4)
    np.testing.assert_allclose(ours.distances(X), theirs.transform(scaler.transform(X)).min(axis=1), atol=1e-4)
    contributions, base = ours.explain(X)
    np.testing.assert_allclose(contributions.sum(axis=1), ours.distances(X), atol=1e-9)
    assert base == 0.0 and np.array_equal(ours.predict(X), ours.labels_) and ours.score(X) == pytest.approx(-ours.inertia_)
    with pytest.raises(ValueError, match="clusters is 0"):
        kilter.KMeans(n_clusters=0).fit(X)
    with pytest.raises(ValueError, match="needs 2000"):
        kilter.KMeans(n_clusters=2_000).fit(X)
    with pytest.raises(ValueError, match="no segments"):
        kilter.LinearRegression().fit(X, X[:, 0]).model_.segments(X)
