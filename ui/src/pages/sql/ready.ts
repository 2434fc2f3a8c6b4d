/** Questions to begin with, of those tables that the server has. */

import { tableName, type SqlTable } from "../../lib/sql";

interface Ready {
  title: string;
  question: string;
}

const READY: { title: string; tables: string[]; question: string }[] = [
  {
    title: "Outcomes of each day",
    tables: ["decisions"],
    question: `SELECT date_trunc('day', time) AS day, outcome, count(*) AS decisions, avg(score) AS mean_score
FROM decisions
GROUP BY 1, 2
ORDER BY 1, 2`,
  },
  {
    title: "What moves the scores",
    tables: ["decision_reasons"],
    question: `SELECT feature, count(*) AS decisions, avg(contribution) AS mean_contribution
FROM decision_reasons
GROUP BY feature
ORDER BY decisions DESC`,
  },
  {
    title: "Scores of each version",
    tables: ["decisions"],
    question: `SELECT model_version, count(*) AS decisions, avg(score) AS mean_score, min(time) AS first, max(time) AS last
FROM decisions
GROUP BY model_version
ORDER BY model_version`,
  },
  {
    title: "Trainings and their AUC",
    tables: ["runs", "run_metrics"],
    question: `SELECT r.started_at, r.model, m.value AS auc
FROM runs r
JOIN run_metrics m ON m.run_id = r.run_id AND m.key = 'auc'
ORDER BY r.started_at`,
  },
  {
    title: "Alerts by subject",
    tables: ["alerts"],
    question: `SELECT subject, count(*) AS alerts, max(value) AS worst, max(time) AS last
FROM alerts
GROUP BY subject
ORDER BY alerts DESC`,
  },
  {
    title: "Why rows were turned away",
    tables: ["dead_letters"],
    question: `SELECT source, code, count(*) AS rows
FROM dead_letters
GROUP BY 1, 2
ORDER BY rows DESC`,
  },
];

export function ready(tables: SqlTable[]): Ready[] {
  const known = new Set(tables.filter((t) => t.schema === "public").map((t) => t.name));
  const events = tables.filter((t) => t.schema === "events");
  return [
    ...READY.filter((r) => r.tables.every((name) => known.has(name))),
    ...events.map((table) => ({
      title: `Newest events of ${table.name}`,
      question: `SELECT *\nFROM ${tableName(table)}\nORDER BY _offset DESC\nLIMIT 100`,
    })),
    ...events.map((table) => ({
      title: `Events of ${table.name} by day`,
      question: `SELECT date_trunc('day', _time) AS day, count(*) AS events\nFROM ${tableName(table)}\nGROUP BY 1\nORDER BY 1`,
    })),
  ];
}
