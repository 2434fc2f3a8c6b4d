-- Traces, their spans and what is said of them. Times of traces are milliseconds UTC, those of spans nanoseconds. The content of a span is its message
-- of OpenTelemetry, compressed; what spans are looked for by stands beside it, and in an index that does without it.

CREATE TABLE traces (
    -- Never given twice: what goes on in several steps must not come upon another trace.
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id          TEXT NOT NULL UNIQUE,
    experiment        INTEGER NOT NULL,
    name              TEXT,
    status            TEXT NOT NULL,
    start_time        BIGINT NOT NULL,
    duration          BIGINT,
    client_request_id TEXT,
    request_preview   TEXT,
    response_preview  TEXT,
    -- The client said what the trace is: spans that come later change none of it.
    is_final          INTEGER NOT NULL,
    -- What was sent to it so far, and how many spans there were when they were last summed up.
    spans             BIGINT NOT NULL,
    bytes             BIGINT NOT NULL,
    summed            BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX traces_by_start ON traces (experiment, start_time DESC, trace_id);

CREATE TABLE trace_tags (
    trace INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (trace, key)
) WITHOUT ROWID;

CREATE TABLE trace_metadata (
    trace INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (trace, key)
) WITHOUT ROWID;

CREATE TABLE trace_runs (
    run_id TEXT NOT NULL,
    trace  INTEGER NOT NULL,
    PRIMARY KEY (run_id, trace)
) WITHOUT ROWID;
CREATE INDEX trace_runs_by_trace ON trace_runs (trace);

CREATE TABLE trace_prompts (
    prompt TEXT NOT NULL,
    trace  INTEGER NOT NULL,
    PRIMARY KEY (prompt, trace)
) WITHOUT ROWID;
CREATE INDEX trace_prompts_by_trace ON trace_prompts (trace);

CREATE TABLE spans (
    id         INTEGER PRIMARY KEY,
    trace      INTEGER NOT NULL,
    span_id    TEXT NOT NULL,
    parent_id  TEXT,
    name       TEXT NOT NULL,
    type       TEXT,
    status     TEXT NOT NULL,
    start_time BIGINT NOT NULL,
    duration   BIGINT NOT NULL,
    usage      TEXT,
    cost       TEXT,
    -- Bytes of the content before it was compressed, and what its values take in memory beside them.
    size       BIGINT NOT NULL,
    content    BLOB NOT NULL,
    UNIQUE (trace, span_id)
);
CREATE INDEX spans_by_kind ON spans (trace, name, type, status, start_time, duration);

CREATE TABLE assessments (
    id            INTEGER PRIMARY KEY,
    assessment_id TEXT NOT NULL UNIQUE,
    trace         INTEGER NOT NULL,
    -- Bytes of all its texts.
    size          BIGINT NOT NULL,
    kind          TEXT NOT NULL,
    name          TEXT NOT NULL,
    value         TEXT NOT NULL,
    number        DOUBLE PRECISION,
    error         TEXT,
    source_type   TEXT NOT NULL,
    source_id     TEXT NOT NULL,
    span_id       TEXT,
    rationale     TEXT,
    metadata      TEXT NOT NULL,
    -- The run that made it; it goes with that run.
    run_id        TEXT,
    overrides     TEXT,
    is_valid      INTEGER NOT NULL,
    created       BIGINT NOT NULL,
    updated       BIGINT NOT NULL
);
CREATE INDEX assessments_by_trace ON assessments (trace, kind, name);
CREATE INDEX assessments_by_override ON assessments (overrides) WHERE overrides IS NOT NULL;
CREATE INDEX assessments_by_run ON assessments (run_id) WHERE run_id IS NOT NULL;
