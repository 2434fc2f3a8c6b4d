-- Registered models that a project keeps: their versions and some of their aliases are its own.

CREATE TABLE kept_models (
    model INTEGER PRIMARY KEY
);
