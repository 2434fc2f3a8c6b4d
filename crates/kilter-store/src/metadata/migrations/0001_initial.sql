-- Portable between SQLite and PostgreSQL: no autoincrement, no engine-specific types. Times are microseconds UTC.
-- A metric value that is not a number is stored as NULL, because SQLite has no NaN.

CREATE TABLE runs (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL,
    name             TEXT NOT NULL,
    model            TEXT,
    status           TEXT NOT NULL,
    started_at       BIGINT NOT NULL,
    ended_at         BIGINT,
    definition_hash  TEXT,
    data_fingerprint TEXT,
    seed             BIGINT,
    error            TEXT,
    owner            TEXT NOT NULL
);
CREATE INDEX runs_by_start ON runs (started_at, id);
CREATE INDEX runs_by_model ON runs (model, started_at);
CREATE INDEX runs_by_status ON runs (status);

CREATE TABLE run_params (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
);

CREATE TABLE run_tags (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
);

-- The latest point of each metric.
CREATE TABLE run_metrics (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  DOUBLE PRECISION,
    step   BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (run_id, key)
);

-- Every point; one logged again for the same key, step and time replaces the former.
CREATE TABLE run_metric_points (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    step   BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    value  DOUBLE PRECISION,
    PRIMARY KEY (run_id, key, step, at)
);

CREATE TABLE model_versions (
    model           TEXT NOT NULL,
    version         BIGINT NOT NULL,
    run_id          TEXT REFERENCES runs (id),
    created_at      BIGINT NOT NULL,
    artifact        TEXT NOT NULL,
    kind            TEXT NOT NULL,
    inputs          TEXT NOT NULL,
    trained_from    BIGINT,
    trained_to      BIGINT,
    metrics         TEXT NOT NULL,
    definition_hash TEXT,
    notes           TEXT NOT NULL,
    PRIMARY KEY (model, version)
);

CREATE TABLE model_aliases (
    model   TEXT NOT NULL,
    alias   TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, version) REFERENCES model_versions (model, version)
);

-- A version of NULL means that the alias was removed.
CREATE TABLE alias_changes (
    seq         BIGINT PRIMARY KEY,
    model       TEXT NOT NULL,
    alias       TEXT NOT NULL,
    version     BIGINT,
    at          BIGINT NOT NULL,
    at_offset   BIGINT,
    reason      TEXT NOT NULL,
    actor       TEXT NOT NULL,
    is_rollback SMALLINT NOT NULL
);
CREATE INDEX alias_changes_by_alias ON alias_changes (model, alias, seq);

CREATE TABLE alerts (
    id        BIGINT PRIMARY KEY,
    at        BIGINT NOT NULL,
    monitor   TEXT NOT NULL,
    model     TEXT,
    signal    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    value     DOUBLE PRECISION,
    threshold DOUBLE PRECISION,
    action    TEXT NOT NULL,
    detail    TEXT NOT NULL
);
CREATE INDEX alerts_by_model ON alerts (model, id);

CREATE TABLE schedule_state (
    name      TEXT PRIMARY KEY,
    last_tick BIGINT NOT NULL
);

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
