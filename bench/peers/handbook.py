"""The Handbook's chapter 3 in pandas, scikit-learn and XGBoost, and the table beside Kilter's figures.

python handbook.py FILE WORK    WORK holds ingest.json, gbdt.json and logistic.json as `kilter ... --json` printed them.
Features as published: weekend and night flags; per customer the number and mean amount of transactions over 1, 7, 30 days (the current one counts);
per terminal the number of transactions and the fraud rate over 1, 7, 30 days shifted by the 7-day delay.
"""
import json
import sys
import time

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

path, work = sys.argv[1], sys.argv[2]
started = time.time()
df = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path, parse_dates=["TX_DATETIME"])
df["TX_DATETIME"] = pd.to_datetime(df["TX_DATETIME"], utc=True).dt.tz_localize(None)
df = df[df.TX_DATETIME < "2018-08-15"].sort_values("TX_DATETIME", kind="stable").reset_index(drop=True)
df["weekend"] = (df.TX_DATETIME.dt.weekday >= 5).astype(int)
df["night"] = (df.TX_DATETIME.dt.hour <= 6).astype(int)


def customer(g):
    s = g.set_index("TX_DATETIME").TX_AMOUNT
    out = {}
    for d in (1, 7, 30):
        r = s.rolling(f"{d}D")
        out[f"customer_count_{d}"], out[f"customer_mean_{d}"] = r.count().values, r.mean().values
    return pd.DataFrame(out, index=g.index)


def terminal(g):
    s = g.set_index("TX_DATETIME").TX_FRAUD
    n7, f7 = s.rolling("7D").count(), s.rolling("7D").sum()
    out = {}
    for d in (1, 7, 30):
        n = (s.rolling(f"{7 + d}D").count() - n7).values
        f = (s.rolling(f"{7 + d}D").sum() - f7).values
        out[f"terminal_count_{d}"] = n
        out[f"terminal_rate_{d}"] = [a / b if b else 0.0 for a, b in zip(f, n)]
    return pd.DataFrame(out, index=g.index)


df = df.join(pd.concat([customer(g) for _, g in df.groupby("CUSTOMER_ID")]))
df = df.join(pd.concat([terminal(g) for _, g in df.groupby("TERMINAL_ID")]))
features_seconds = time.time() - started
inputs = ["TX_AMOUNT", "weekend", "night"] + [c for c in df if c.startswith(("customer_", "terminal_"))]

train = df[(df.TX_DATETIME >= "2018-07-25") & (df.TX_DATETIME < "2018-08-01")]
day0 = int(train.TX_TIME_DAYS.min())
known = set(train[train.TX_FRAUD == 1].CUSTOMER_ID)
parts = []
for d in range(7):
    known |= set(df[(df.TX_TIME_DAYS == day0 + 7 + d - 1) & (df.TX_FRAUD == 1)].CUSTOMER_ID)
    day = df[df.TX_TIME_DAYS == day0 + 14 + d]
    parts.append(day[~day.CUSTOMER_ID.isin(known)])
test = pd.concat(parts)


def card_precision(scores, k=100):
    t, found, daily = test.assign(score=scores), set(), []
    for _, day in t.groupby("TX_TIME_DAYS"):
        day = day[~day.CUSTOMER_ID.isin(found)]
        top = day.groupby("CUSTOMER_ID")[["score", "TX_FRAUD"]].max().sort_values("score", ascending=False).head(k)
        hits = top[top.TX_FRAUD == 1].index
        found |= set(hits)
        daily.append(len(hits) / k)
    return sum(daily) / len(daily)


rows = []
for name, model in (
    ("scikit-learn logistic regression", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
    ("XGBoost (100 trees, depth 6, 0.3)", XGBClassifier(n_jobs=2)),
    ("XGBoost (100 trees, depth 3, 0.3)", XGBClassifier(n_jobs=2, max_depth=3)),
):
    model.fit(train[inputs], train.TX_FRAUD)
    p = model.predict_proba(test[inputs])[:, 1]
    rows.append((name, roc_auc_score(test.TX_FRAUD, p), average_precision_score(test.TX_FRAUD, p), card_precision(p)))
for name, file in (("Kilter logistic regression", "logistic"), ("Kilter gradient-boosted trees", "gbdt")):
    fold = json.load(open(f"{work}/{file}.json"))["folds"][0]
    e = fold["evaluation"]
    rows.append((name, e["auc"], e["average_precision"], fold["top_precision"]))
print(f"train {len(train)} rows, test {len(test)} rows (Kilter's test: {e['rows']})\n")
print(f"{'':<36}{'AUC':>8}{'AP':>8}{'CP@100':>8}")
for name, auc, ap, cp in rows:
    print(f"{name:<36}{auc:8.4f}{ap:8.4f}{cp:8.4f}")
best = max(rows[1:3], key=lambda r: r[2])
ours = rows[-1]
print(f"\nratio to the better XGBoost: AUC {ours[1] / best[1]:.3f}, average precision {ours[2] / best[2]:.3f}, card precision {ours[3] / best[3]:.3f}")
ingest = json.load(open(f"{work}/ingest.json"))
print(
    f"Kilter: {ingest['accepted']} events through the log in {ingest['seconds']:.1f} s ({ingest['events_per_second']:.0f}/s), "
    f"{ingest['decisions']} decisions with reasons, weekly trainings included; "
    f"all rows of all weeks read back in {json.load(open(f'{work}/gbdt.json'))['read_seconds']:.1f} s"
)
print(f"pandas: features of {len(df)} rows in {features_seconds:.1f} s (batch, once)")
