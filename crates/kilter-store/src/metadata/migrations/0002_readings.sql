-- What monitors of models saw at the close of each bucket. `subjects` is JSON: by input its value, and the counts it was made of.

CREATE TABLE readings (
    monitor  TEXT NOT NULL,
    at       BIGINT NOT NULL,
    model    TEXT NOT NULL,
    version  BIGINT,
    subject  TEXT NOT NULL,
    value    DOUBLE PRECISION,
    sample   BIGINT NOT NULL,
    above    DOUBLE PRECISION,
    below    DOUBLE PRECISION,
    crossed  SMALLINT NOT NULL,
    subjects TEXT NOT NULL,
    PRIMARY KEY (monitor, at)
);
