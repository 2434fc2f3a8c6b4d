-- Portable between SQLite and PostgreSQL but for WITHOUT ROWID. Times are milliseconds UTC. Runs and names of metrics, params and tags have numbers, so
-- that a point of a metric repeats neither. A value that is not a number has is_nan = 1 and value = 0, because SQLite has no NaN.

CREATE TABLE experiments (
    id                INTEGER PRIMARY KEY,
    name              TEXT NOT NULL UNIQUE,
    artifact_location TEXT NOT NULL,
    stage             TEXT NOT NULL,
    created           BIGINT NOT NULL,
    updated           BIGINT NOT NULL
);

CREATE TABLE experiment_tags (
    experiment INTEGER NOT NULL,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (experiment, key)
) WITHOUT ROWID;

CREATE TABLE keys (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE runs (
    id           INTEGER PRIMARY KEY,
    run_id       TEXT NOT NULL UNIQUE,
    experiment   INTEGER NOT NULL,
    name         TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    status       TEXT NOT NULL,
    stage        TEXT NOT NULL,
    start_time   BIGINT NOT NULL,
    end_time     BIGINT,
    artifact_uri TEXT NOT NULL
);
-- With the stage, so that pages which come later are found without reading what is before them.
CREATE INDEX runs_by_start ON runs (experiment, start_time DESC, run_id, stage);

CREATE TABLE metrics (
    run       INTEGER NOT NULL,
    key       INTEGER NOT NULL,
    timestamp BIGINT NOT NULL,
    step      BIGINT NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    is_nan    INTEGER NOT NULL,
    PRIMARY KEY (run, key, timestamp, step, value, is_nan)
) WITHOUT ROWID;

-- The point of each metric with the greatest (step, timestamp, value, is_nan).
CREATE TABLE latest_metrics (
    run       INTEGER NOT NULL,
    key       INTEGER NOT NULL,
    timestamp BIGINT NOT NULL,
    step      BIGINT NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    is_nan    INTEGER NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE INDEX latest_metrics_by_value ON latest_metrics (key, is_nan, value);

CREATE TABLE params (
    run   INTEGER NOT NULL,
    key   INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE INDEX params_by_key ON params (key);

CREATE TABLE tags (
    run   INTEGER NOT NULL,
    key   INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE INDEX tags_by_key ON tags (key);

CREATE TABLE datasets (
    id          INTEGER PRIMARY KEY,
    experiment  INTEGER NOT NULL,
    name        TEXT NOT NULL,
    digest      TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source      TEXT NOT NULL,
    schema      TEXT,
    profile     TEXT,
    UNIQUE (experiment, name, digest)
);

CREATE TABLE inputs (
    run     INTEGER NOT NULL,
    dataset INTEGER NOT NULL,
    PRIMARY KEY (run, dataset)
) WITHOUT ROWID;
CREATE INDEX inputs_by_dataset ON inputs (dataset);

CREATE TABLE input_tags (
    run     INTEGER NOT NULL,
    dataset INTEGER NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (run, dataset, key)
) WITHOUT ROWID;
