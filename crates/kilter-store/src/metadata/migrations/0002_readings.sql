-- What monitors of models saw at the close of each bucket. `subjects` and `counts` are JSON lists in one order: names with values, and what the values
-- were made of. Spans are microseconds.

CREATE TABLE readings (
    monitor  TEXT NOT NULL,
    at       BIGINT NOT NULL,
    model    TEXT NOT NULL,
    version  BIGINT,
    signal   TEXT NOT NULL,
    span     BIGINT NOT NULL,
    every    BIGINT NOT NULL,
    subject  TEXT NOT NULL,
    value    DOUBLE PRECISION,
    sample   BIGINT NOT NULL,
    above    DOUBLE PRECISION,
    below    DOUBLE PRECISION,
    crossed  SMALLINT NOT NULL,
    subjects TEXT NOT NULL,
    counts   TEXT NOT NULL,
    PRIMARY KEY (monitor, at)
);
