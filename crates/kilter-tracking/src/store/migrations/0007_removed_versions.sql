-- Of registered models the greatest number of a version that was deleted: it is not given twice, for it would come to name another one.

CREATE TABLE removed_versions (
    model   INTEGER PRIMARY KEY,
    version BIGINT NOT NULL
);
