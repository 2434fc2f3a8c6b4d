-- Who is told what happens in the registry, and what is still to be told: one row for each webhook and event, deleted when it is done.

CREATE TABLE webhooks (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id  TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    url         TEXT NOT NULL,
    -- Empty: what is sent is not signed.
    secret      TEXT NOT NULL,
    is_active   BIGINT NOT NULL,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE webhook_events (
    webhook BIGINT NOT NULL,
    event   TEXT NOT NULL,
    -- Its place in the list as it was given.
    place   BIGINT NOT NULL,
    PRIMARY KEY (webhook, event)
);

CREATE TABLE webhook_deliveries (
    -- Never given twice, and later for what happened later: deliveries go out by it.
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook     BIGINT NOT NULL,
    delivery_id TEXT NOT NULL,
    event       TEXT NOT NULL,
    -- When it happened.
    created     BIGINT NOT NULL,
    attempts    BIGINT NOT NULL,
    -- Not to be tried before.
    due         BIGINT NOT NULL,
    -- Bytes of the payload, which is JSON.
    size        BIGINT NOT NULL,
    payload     TEXT NOT NULL
);
CREATE INDEX webhook_deliveries_by_webhook ON webhook_deliveries (webhook, id, size);
