"""Learning from rows that come in batches."""

import numpy as np
import pytest
from data import amounts, classes

import kilter


class Slices:
    """Rows so many at a time, anew each time it is iterated."""

    def __init__(self, size, *columns):
        self.size, self.columns = size, columns
        self.readings = 0

    def __iter__(self):
        self.readings += 1
        for start in range(0, len(self.columns[0]), self.size):
            yield tuple(column[start : start + self.size] for column in self.columns)


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_model_is_that_of_all_rows_at_once(tmp_path, scratch, early_stopping):
    X, y = classes(3_000)
    model = kilter.GradientBoostingClassifier(n_estimators=15, early_stopping=early_stopping)
    whole = model.fit(X, y).model_.to_bytes()
    batches = Slices(700, X, y)
    folder = tmp_path if scratch else None
    learned = kilter.GradientBoostingClassifier(**model.get_params()).fit_batches(batches, scratch=folder)
    assert learned.model_.to_bytes() == whole
    assert batches.readings == 3
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(learned.predict(X), model.predict(X))


def test_weights_and_rows_that_weigh_nothing():
    X, y = classes(2_000)
    weights = np.random.default_rng(1).integers(0, 3, size=len(y)).astype(float)
    model = kilter.GradientBoostingClassifier(n_estimators=10, class_weight={0: 1.0, 1: 2.5})
    whole = model.fit(X, y, weights).model_.to_bytes()
    assert model.fit_batches(Slices(333, X, y, weights)).model_.to_bytes() == whole


def test_regression():
    X, y = amounts(2_000)
    model = kilter.GradientBoostingRegressor(loss="gamma", n_estimators=10)
    whole = model.fit(X, y).model_.to_bytes()
    assert model.fit_batches(Slices(512, X.astype(np.float32).astype(float), y)).n_features_in_ == 4
    assert model.fit_batches(Slices(512, X, y)).model_.to_bytes() == whole


def test_frames_are_held_to_the_columns_of_the_first():
    pandas = pytest.importorskip("pandas")
    X, y = classes(1_200)
    frame = pandas.DataFrame(X, columns=list("abcde"))
    model = kilter.GradientBoostingClassifier(n_estimators=8, categorical_features=None)
    whole = model.fit(frame, y).model_.to_bytes()
    batches = [(frame.iloc[start : start + 400], y[start : start + 400]) for start in (0, 400, 800)]
    assert model.fit_batches(batches).model_.to_bytes() == whole
    assert list(model.feature_names_in_) == list("abcde")
    batches[1] = (batches[1][0].rename(columns={"c": "z"}), batches[1][1])
    with pytest.raises(ValueError, match="z"):
        model.fit_batches(batches)


def test_what_is_wrong_with_batches_is_told(tmp_path):
    X, y = classes(600)
    model = kilter.GradientBoostingClassifier(n_estimators=3)
    with pytest.raises(TypeError, match="begins anew"):
        model.fit_batches(iter([(X, y)]))
    with pytest.raises(ValueError, match="no rows"):
        model.fit_batches([])
    with pytest.raises(ValueError, match="600 rows, and 599 labels"):
        model.fit_batches([(X, y[:-1])])
    with pytest.raises(ValueError, match="0 or 1"):
        model.fit_batches([(X, y + 1)])
    with pytest.raises(ValueError, match="class_weight"):
        kilter.GradientBoostingClassifier(class_weight="balanced").fit_batches([(X, y)])
    with pytest.raises(OSError, match="nowhere"):
        model.fit_batches([(X, y)], scratch=tmp_path / "nowhere")

    class Fewer(Slices):
        def __iter__(self):
            yield from list(super().__iter__())[: None if self.readings < 2 else 1]

    with pytest.raises(ValueError, match="600 rows were announced, 200 came"):
        model.fit_batches(Fewer(200, X, y))

    class Unreadable(Slices):
        def __iter__(self):
            if self.readings == 2:
                raise RuntimeError("the disk is gone")
            yield from super().__iter__()

    with pytest.raises(RuntimeError, match="the disk is gone"):
        model.fit_batches(Unreadable(200, X, y))
