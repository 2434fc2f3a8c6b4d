-- Models that runs logged, and the registry. The metric of a model is the greatest point of each name and dataset.

CREATE TABLE logged_models (
    id            INTEGER PRIMARY KEY,
    model_id      TEXT NOT NULL UNIQUE,
    experiment    INTEGER NOT NULL,
    name          TEXT NOT NULL,
    model_type    TEXT NOT NULL,
    source_run_id TEXT NOT NULL,
    status        TEXT NOT NULL,
    stage         TEXT NOT NULL,
    created       BIGINT NOT NULL,
    updated       BIGINT NOT NULL,
    artifact_uri  TEXT NOT NULL
);
CREATE INDEX logged_models_by_time ON logged_models (experiment, created);

CREATE TABLE logged_model_params (
    model INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;

CREATE TABLE logged_model_tags (
    model INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;

CREATE TABLE logged_model_metrics (
    model          INTEGER NOT NULL,
    key            TEXT NOT NULL,
    dataset_name   TEXT NOT NULL,
    dataset_digest TEXT NOT NULL,
    run_id         TEXT NOT NULL,
    timestamp      BIGINT NOT NULL,
    step           BIGINT NOT NULL,
    value          DOUBLE PRECISION NOT NULL,
    is_nan         INTEGER NOT NULL,
    PRIMARY KEY (model, key, dataset_name, dataset_digest)
) WITHOUT ROWID;

-- Models that a run read (is_output = 0) or made.
CREATE TABLE run_models (
    run       INTEGER NOT NULL,
    is_output INTEGER NOT NULL,
    model_id  TEXT NOT NULL,
    step      BIGINT NOT NULL,
    PRIMARY KEY (run, is_output, model_id)
) WITHOUT ROWID;

CREATE TABLE registered_models (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE registered_model_tags (
    model INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;

CREATE TABLE model_versions (
    model       INTEGER NOT NULL,
    version     BIGINT NOT NULL,
    source      TEXT NOT NULL,
    location    TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    run_link    TEXT NOT NULL,
    description TEXT NOT NULL,
    stage       TEXT NOT NULL,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL,
    PRIMARY KEY (model, version)
) WITHOUT ROWID;
CREATE INDEX model_versions_by_run ON model_versions (run_id);

CREATE TABLE model_version_tags (
    model   INTEGER NOT NULL,
    version BIGINT NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (model, version, key)
) WITHOUT ROWID;

CREATE TABLE registered_model_aliases (
    model   INTEGER NOT NULL,
    alias   TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (model, alias)
) WITHOUT ROWID;
