-- Which model of language a span called, and whose: metrics are told by it. Spans that were stored before have none.

ALTER TABLE spans ADD COLUMN model TEXT
;
ALTER TABLE spans ADD COLUMN provider TEXT
;
