/** Columns that a reader chooses: "m.auc", "p.depth", "t.owner", and of the run itself "a.start_time". */

import { asNumber, metricText, ownTags, type Run } from "../../lib/mlflow";
import { NONE } from "../../lib/format";

export type Kind = "m" | "p" | "t" | "a";

export const KINDS = { m: "metrics", p: "params", t: "tags", a: "attributes" } as const;

export const kind = (column: string) => column.slice(0, 1) as Kind;
export const key = (column: string) => column.slice(2);

export function raw(run: Run, column: string): string | number | null {
  const name = key(column);
  switch (kind(column)) {
    case "m":
      return asNumber(run.data.metrics?.find((m) => m.key === name)?.value);
    case "p":
      return run.data.params?.find((p) => p.key === name)?.value ?? null;
    case "t":
      return run.data.tags?.find((t) => t.key === name)?.value ?? null;
    default:
      return (run.info as unknown as Record<string, string | number>)[name] ?? null;
  }
}

export function text(run: Run, column: string): string {
  const value = raw(run, column);
  return typeof value === "number" ? metricText(value) : (value ?? NONE);
}

/** A finite number, where the value is one: params are texts. */
export function numeric(run: Run, column: string): number | null {
  const value = raw(run, column);
  if (value === null || value === "") return null;
  const n = Number(value);
  return Number.isFinite(n) ? n : null;
}

/** What the runs have, most frequent first, then by name. */
export function available(runs: Run[]): { m: string[]; p: string[]; t: string[] } {
  const counted = (of: (run: Run) => { key: string }[]) => {
    const counts = new Map<string, number>();
    for (const run of runs) for (const { key } of of(run)) counts.set(key, (counts.get(key) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0], "en", { numeric: true })).map(([key]) => key);
  };
  return {
    m: counted((run) => run.data.metrics ?? []).map((k) => `m.${k}`),
    p: counted((run) => run.data.params ?? []).map((k) => `p.${k}`),
    t: counted((run) => ownTags(run.data.tags)).map((k) => `t.${k}`),
  };
}

/** "-m.auc" as the server wants it. */
export function orderBy(sort: string): string {
  const down = sort.startsWith("-");
  const column = down ? sort.slice(1) : sort;
  const name = kind(column) === "a" ? key(column) : `\`${key(column)}\``;
  return `${KINDS[kind(column)]}.${name} ${down ? "DESC" : "ASC"}`;
}

/** Whether the runs that have it differ in it. */
export const differs = (runs: Run[], column: string) => new Set(runs.map((run) => text(run, column))).size > 1;
