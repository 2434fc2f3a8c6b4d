"""Times one peer's scoring on one thread and prints the figures as JSON.

    scoring.py PEER FOLDER TREES LEAVES

The model is LightGBM's for all, trained at the first time. One row: wall time of each call, 2 000 rows in turn, less what an empty call
takes by the same way. Many rows and explanations: CPU seconds.
"""

import ctypes
import json
import os
import pathlib
import sys
import time

import numpy as np

peer, folder, trees, leaves = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
x = np.ascontiguousarray(np.load(folder / "x_test.npy"))
few = x[:2000]
model_file = folder / f"lightgbm-{trees}x{leaves}.txt"


def main():
    import lightgbm as lgb
    if not model_file.exists():
        parameters = dict(objective="binary", num_leaves=leaves, learning_rate=0.1, lambda_l2=1.0, verbosity=-1)
        x_train, y_train = np.load(folder / "x_train.npy")[:200_000], np.load(folder / "y_train.npy")[:200_000]
        lgb.train(parameters, lgb.Dataset(x_train, y_train, params={"verbosity": -1}), trees).save_model(model_file)
    booster = lgb.Booster(model_file=str(model_file))
    expected = booster.predict(few, num_threads=1)
    peers = dict(lightgbm=lightgbm, onnxruntime=onnxruntime, tl2cgen=tl2cgen, catboost=catboost, hessboost=hessboost, shap=shap)
    print(json.dumps(peers[peer](booster, expected)))


def lightgbm(booster, expected):
    from lightgbm.basic import _LIB as lib
    config, length, out = ctypes.c_void_p(), ctypes.c_int64(), ctypes.c_double()
    # Rows of 32-bit floats (0), ordinary predictions (0), of all trees.
    checked(lib, lib.LGBM_BoosterPredictForMatSingleRowFastInit(
        booster._handle, ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int32(x.shape[1]),
        ctypes.c_char_p(b"num_threads=1"), ctypes.byref(config)))
    call, length_at, out_at = lib.LGBM_BoosterPredictForMatSingleRowFast, ctypes.byref(length), ctypes.byref(out)
    rows = [ctypes.c_void_p(row.ctypes.data) for row in few]
    for row, value in zip(rows, expected):
        checked(lib, call(config, row, length_at, out_at))
        assert out.value == value
    p50, p99 = one_by_one(rows, lambda row: call(config, row, length_at, out_at), empty_call(config, length_at, out_at))
    return dict(one_p50_us=p50, one_p99_us=p99, batch_rows_s=rate(x, lambda: booster.predict(x, num_threads=1)),
                shap_rows_s=rate(few, lambda: booster.predict(few, pred_contrib=True, num_threads=1)))


def checked(lib, status):
    if status:
        lib.LGBM_GetLastError.restype = ctypes.c_char_p
        sys.exit(lib.LGBM_GetLastError().decode())


def empty_call(config, length, out):
    """A C function with as many arguments that does nearly nothing, called the same way."""
    nothing = ctypes.CDLL(None).ffs
    return lambda row: nothing(1, row, length, out)


def onnxruntime(booster, expected):
    import onnxmltools
    import onnxruntime as ort
    from onnxmltools.convert.common.data_types import FloatTensorType
    graph = onnxmltools.convert_lightgbm(booster, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], zipmap=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_outputs()[1].name

    def run(rows):
        return session.run([name], {"x": rows})[0]
    assert np.abs(run(few)[:, 1] - expected).max() < 1e-4
    p50, p99 = one_by_one([few[i:i + 1] for i in range(len(few))], run)
    return dict(one_p50_us=p50, one_p99_us=p99, batch_rows_s=rate(x, lambda: run(x)))


def tl2cgen(booster, expected):
    import tl2cgen
    import treelite
    library = folder / f"tl2cgen-{trees}x{leaves}.so"
    if not library.exists():
        tl2cgen.export_lib(treelite.frontend.load_lightgbm_model(str(model_file)), toolchain="gcc", libpath=str(library), params={"parallel_comp": 8})
    predictor = tl2cgen.Predictor(str(library), nthread=1)
    assert np.abs(predictor.predict(tl2cgen.DMatrix(few)).reshape(-1) - expected).max() < 1e-4
    # An entry is a number in the type of the thresholds.
    lib = ctypes.CDLL(str(library))
    wide, out = few.astype("f8"), ctypes.c_double()
    out_at = ctypes.byref(out)
    rows = [ctypes.c_void_p(row.ctypes.data) for row in wide]
    for row, value in zip(rows, expected):
        out.value = 0  # It is added to.
        lib.predict(row, 0, out_at)
        assert abs(out.value - value) < 1e-6
    p50, p99 = one_by_one(rows, lambda row: lib.predict(row, 0, out_at), empty_call(0, out_at, out_at))
    data = tl2cgen.DMatrix(x)
    return dict(one_p50_us=p50, one_p99_us=p99, batch_rows_s=rate(x, lambda: predictor.predict(data)))


def own_rows():
    """What the peer makes a model of its own from, of the same size."""
    return np.ascontiguousarray(np.load(folder / "x_train.npy")[:200_000]), np.load(folder / "y_train.npy")[:200_000]


def catboost(booster, expected):
    import catboost
    # Symmetric trees as deep as 32 leaves, which is what it is made for.
    settings = dict(iterations=trees, depth=int(np.log2(leaves + 1)), learning_rate=0.1, thread_count=1, verbose=False, allow_writing_files=False)
    model, file = catboost.CatBoostClassifier(**settings), folder / f"catboost-{trees}x{leaves}.cbm"
    if file.exists():
        model.load_model(file)
    else:
        model.fit(*own_rows()).save_model(file)

    def margins(rows):
        return model.predict(rows, prediction_type="RawFormulaVal", thread_count=1)
    p50, p99 = one_by_one([few[i:i + 1] for i in range(len(few))], margins)
    return dict(one_p50_us=p50, one_p99_us=p99, batch_rows_s=rate(x, lambda: margins(x)),
                shap_rows_s=rate(few, lambda: model.get_feature_importance(catboost.Pool(few), type="ShapValues", thread_count=1)))


def hessboost(booster, expected):
    import hessboost as hb
    file = folder / f"hessboost-{trees}x{leaves}.json"
    if file.exists():
        model = hb.Booster()
        model.load_model(file)
    else:
        parameters = dict(objective="binary:logistic", max_leaves=leaves, grow_policy="lossguide", eta=0.1, max_bin=255, nthread=1, max_depth=0)
        rows, labels = own_rows()
        model = hb.train(parameters, hb.DMatrix(rows, label=labels), num_boost_round=trees)
        model.save_model(file)
    data = hb.DMatrix(x)
    p50, p99 = one_by_one(list(few), model.predict_row)
    return dict(one_p50_us=p50, one_p99_us=p99, batch_rows_s=rate(x, lambda: model.predict(data)))


def shap(booster, expected):
    import shap
    explainer = shap.TreeExplainer(booster)
    # The package asks LightGBM for the values of LightGBM's models.
    return dict(shap_rows_s=rate(few, lambda: explainer.shap_values(few, check_additivity=False)))


def one_by_one(rows, call, empty=lambda row: None):
    def timed(call):
        took = []
        for row in rows * 3:
            started = time.perf_counter_ns()
            call(row)
            took.append(time.perf_counter_ns() - started)
        return np.percentile(took, [50, 99])
    clock = timed(empty)[0]
    return [round(float(at - clock) / 1e3, 3) for at in timed(call)]


def rate(rows, call):
    """Rows a CPU second, of at least half a second of work."""
    call()
    start, done = time.process_time(), 0
    while time.process_time() - start < 0.5:
        call()
        done += len(rows)
    return done / (time.process_time() - start)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
