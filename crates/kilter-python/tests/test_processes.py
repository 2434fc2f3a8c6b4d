"""Threads and processes: a fork after training must not hang, and learning must not hold the GIL."""

import multiprocessing
import subprocess
import sys
import threading
import time

import kilter
import numpy as np
import pytest
from data import classes


def fit_bytes(_):
    X, y = classes(5_000)
    return kilter.GradientBoostingClassifier(n_estimators=5, n_jobs=2).fit(X, y).model_.to_bytes()


def test_a_forked_child_learns_and_scores():
    expected = fit_bytes(None)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(fit_bytes, range(4)).get(timeout=60) == [expected] * 4


def test_other_threads_run_while_it_learns():
    X, y = classes(60_000, columns=20)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    watcher = threading.Thread(target=tick)
    watcher.start()
    began = time.perf_counter()
    kilter.GradientBoostingClassifier(n_estimators=100, n_jobs=1).fit(X, y)
    ended = time.perf_counter()
    done.set()
    watcher.join()
    # Holding the GIL would leave no tick between.
    assert sum(began < tick < ended for tick in ticks) > 10


def test_many_threads_share_a_model():
    X, y = classes(3_000)
    model = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y).model_
    expected, wrong = model.probabilities(X), []

    def score():
        for _ in range(20):
            if not np.array_equal(model.probabilities(X), expected) or model.score_one(X[7]) != expected[7]:
                wrong.append(True)

    threads = [threading.Thread(target=score) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize("blocked", ["sklearn", "pandas"])
def test_models_need_only_numpy(blocked):
    code = f"""
import sys
sys.modules[{blocked!r}] = None
import kilter
assert "sklearn" not in [name for name, module in sys.modules.items() if module]
try:
    kilter.GradientBoostingClassifier
except ImportError as error:
    assert "pip install" in str(error), error
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
