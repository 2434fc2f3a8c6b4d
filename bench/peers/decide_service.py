"""The peer as the common stack has it: FastAPI, uvicorn and a gradient-boosted model behind one route.

MODEL=sklearn | lightgbm | lightgbm_reasons, FOLDER with what decide_models.py made. `lightgbm_reasons` adds the four inputs that
pushed the score up the most, by LightGBM's own TreeSHAP (pred_contrib). The handler is `async def`, which costs FastAPI two to three
times less than the `def` most people write.
"""

import os
import pickle

import lightgbm
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, create_model

INPUTS = [f"f{i:02d}" for i in range(20)]
FOLDER = os.environ["FOLDER"]

Application = create_model("Application", ref=(str, ...), customer_id=(int, ...), **{name: (float, ...) for name in INPUTS})


class Reason(BaseModel):
    feature: str
    value: float
    contribution: float


class Decision(BaseModel):
    ref: str
    outcome: str
    score: float
    model: str
    model_version: int
    reasons: list[Reason]


def sklearn():
    with open(f"{FOLDER}/sklearn.pickle", "rb") as file:
        model = pickle.load(file)
    return lambda row: (model.predict_proba(row)[0, 1], [])


def lightgbm_plain():
    model = lightgbm.Booster(model_file=f"{FOLDER}/lightgbm.txt")
    return lambda row: (model.predict(row, num_threads=1)[0], [])


def lightgbm_reasons():
    model = lightgbm.Booster(model_file=f"{FOLDER}/lightgbm.txt")

    def score(row):
        parts = model.predict(row, pred_contrib=True, num_threads=1)[0]
        largest = np.argsort(-parts[:-1])[:4]
        reasons = [Reason(feature=INPUTS[i], value=row[0, i], contribution=parts[i]) for i in largest]
        return 1 / (1 + np.exp(-parts.sum())), reasons

    return score


score = {"sklearn": sklearn, "lightgbm": lightgbm_plain, "lightgbm_reasons": lightgbm_reasons}[os.environ["MODEL"]]()
app = FastAPI()


@app.post("/decide")
async def decide(application: Application) -> Decision:
    row = np.array([[getattr(application, name) for name in INPUTS]])
    probability, reasons = score(row)
    outcome = "decline" if probability >= 0.5 else "review" if probability >= 0.2 else "approve"
    return Decision(ref=application.ref, outcome=outcome, score=probability, model="risk", model_version=1, reasons=reasons)


@app.get("/healthz")
async def healthz():
    return {"status": "ok"}
