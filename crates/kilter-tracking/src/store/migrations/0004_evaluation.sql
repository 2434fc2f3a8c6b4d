-- What models of language are judged by: datasets of records, and scorers. Inputs, outputs and the like are JSON.

CREATE TABLE evaluation_datasets (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    schema     TEXT,
    records    BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    created_by TEXT,
    updated_by TEXT
);

CREATE TABLE evaluation_dataset_tags (
    dataset INTEGER NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (dataset, key)
) WITHOUT ROWID;

CREATE TABLE evaluation_dataset_experiments (
    dataset    INTEGER NOT NULL,
    experiment INTEGER NOT NULL,
    PRIMARY KEY (dataset, experiment)
) WITHOUT ROWID;
CREATE INDEX evaluation_datasets_by_experiment ON evaluation_dataset_experiments (experiment);

-- One record for each input of a dataset, known by the hash of it.
CREATE TABLE evaluation_records (
    -- Never given twice: a page says after which it ends.
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id    TEXT NOT NULL UNIQUE,
    dataset      INTEGER NOT NULL,
    -- Bytes of all its texts.
    size         BIGINT NOT NULL,
    input_hash   TEXT NOT NULL,
    inputs       TEXT NOT NULL,
    outputs      TEXT,
    expectations TEXT,
    tags         TEXT,
    source       TEXT,
    created      BIGINT NOT NULL,
    updated      BIGINT NOT NULL,
    created_by   TEXT,
    updated_by   TEXT,
    UNIQUE (dataset, input_hash)
);
CREATE INDEX evaluation_records_by_dataset ON evaluation_records (dataset);

CREATE TABLE scorers (
    id         INTEGER PRIMARY KEY,
    scorer_id  TEXT NOT NULL UNIQUE,
    experiment INTEGER NOT NULL,
    name       TEXT NOT NULL,
    UNIQUE (experiment, name)
);

CREATE TABLE scorer_versions (
    scorer     INTEGER NOT NULL,
    version    BIGINT NOT NULL,
    serialized TEXT NOT NULL,
    created    BIGINT NOT NULL,
    PRIMARY KEY (scorer, version)
);
