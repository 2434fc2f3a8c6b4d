import type { Cell } from "../../lib/download";
import { fixed, number, percent } from "../../lib/format";
import type { Figure, Performance, Realised } from "../../lib/types";

type Name = "rate" | "auc" | "log_loss" | "brier" | "rmse" | "mae" | "bias" | "pinball" | "coverage" | "deviance";

export interface Measure {
  name: Name;
  title: string;
  format: (value: number | null | undefined) => string;
  /** What a reader should know of it. */
  note: string;
}

const share = (value: number | null | undefined) => percent(value);
const three = (value: number | null | undefined) => fixed(value, 3);
const short = (value: number | null | undefined) => number(value, 4);
const OF: Record<Performance["task"], Measure[]> = {
  classes: [
    {
      name: "auc",
      title: "AUC",
      format: three,
      note: "How well scores put positives above the rest: 0.5 is by chance, 1 without fault.",
    },
    { name: "rate", title: "Base rate", format: share, note: "The share of positives." },
    { name: "log_loss", title: "Log loss", format: three, note: "Smaller is better; it punishes confident mistakes." },
    { name: "brier", title: "Brier score", format: three, note: "Mean squared distance of score and label; smaller is better." },
  ],
  numbers: [
    { name: "rmse", title: "RMSE", format: short, note: "Root of the mean squared error; smaller is better." },
    { name: "mae", title: "Mean absolute error", format: short, note: "Smaller is better." },
    { name: "bias", title: "Bias", format: short, note: "Mean of prediction minus label: above 0 it says too much." },
    { name: "rate", title: "Mean label", format: short, note: "What labels were on average." },
    { name: "pinball", title: "Pinball loss", format: short, note: "For quantiles; smaller is better." },
    { name: "deviance", title: "Deviance", format: short, note: "For counts and amounts; smaller is better." },
    { name: "coverage", title: "Coverage", format: share, note: "The share of labels at or below the predicted quantile." },
  ],
  anomalies: [{ name: "auc", title: "AUC", format: three, note: "How well scores put anomalies above the rest." }],
};

/** Those that some rows of the answer have. */
export function measures(p: Performance): Measure[] {
  const slices = [p.total, ...p.cohorts];
  const of = OF[p.task];
  const known = of.filter(({ name }) => slices.some((s) => s.realised?.[name] || estimate(s.estimated, name)));
  return known.length ? known : of.slice(0, 1);
}

export function estimate(of: object | null | undefined, name: Name): Figure | null {
  return ((of ?? {}) as Partial<Record<Name, Figure | null>>)[name] ?? null;
}

/** Whether what came of it lies outside of what its scores let expect; null where one of the two is missing. */
export function surprising(realised: Realised | null, name: Name): boolean | null {
  const [was, expected] = [realised?.[name], estimate(realised?.expected, name)];
  if (!was || expected?.low == null || expected.high == null) return null;
  return was.value < expected.low || was.value > expected.high;
}

/** `0.711 to 0.774`; nothing where there is no interval. */
export function interval(figure: Figure | null | undefined, format: Measure["format"]): string {
  return figure?.low != null && figure.high != null ? `${format(figure.low)} to ${format(figure.high)}` : "";
}

/** `0.742 (0.711 to 0.774)` */
export function told(figure: Figure | null | undefined, format: Measure["format"]): string {
  const [value, reach] = [format(figure?.value), interval(figure, format)];
  return reach ? `${value} (${reach})` : value;
}

/** Everything that is known of each item as a table: `realised.auc.low`, `outcomes.approve.share.value`. */
export function flat(items: object[]): { names: string[]; rows: Cell[][] } {
  const rows = items.map((item) => Object.fromEntries(leaves(item, "")));
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return { names, rows: rows.map((row) => names.map((name) => row[name])) };
}

function leaves(of: object, before: string): [string, Cell][] {
  return Object.entries(of).flatMap(([name, value]: [string, unknown]): [string, Cell][] => {
    const path = before + name;
    if (Array.isArray(value))
      return value.flatMap((part: Record<string, unknown>) => {
        const { outcome, ...rest } = part;
        return leaves(rest, `${path}.${String(outcome)}.`);
      });
    if (value !== null && typeof value === "object") return leaves(value, `${path}.`);
    return [[path, value as Cell]];
  });
}

/** The start of a period. Periods begin and end by UTC, whatever zone times are shown in. */
export const period = (from: string, by: Performance["by"]) =>
  by === "hour" ? from.slice(0, 16).replace("T", " ") : by === "month" ? from.slice(0, 7) : from.slice(0, 10);
