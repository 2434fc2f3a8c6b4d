/** What metrics are called, and which way is better. */

import { count, fixed, number } from "../../lib/format";

interface Metric {
  name: string;
  better?: "higher" | "lower";
  what?: string;
}

const KNOWN: Record<string, Metric> = {
  auc: { name: "AUC", better: "higher", what: "a positive scores above a negative so often" },
  auc_low: { name: "AUC, low end", what: "of the 95 % interval" },
  auc_high: { name: "AUC, high end", what: "of the 95 % interval" },
  gini: { name: "Gini", better: "higher" },
  ks: { name: "KS", better: "higher", what: "largest distance of the two score distributions" },
  average_precision: { name: "Average precision", better: "higher" },
  log_loss: { name: "Log loss", better: "lower", what: "nats" },
  brier: { name: "Brier score", better: "lower" },
  ece: { name: "Calibration error", better: "lower", what: "ECE over ten bins" },
  calibration_slope: { name: "Calibration slope", what: "1 is calibrated" },
  rmse: { name: "RMSE", better: "lower" },
  mae: { name: "MAE", better: "lower" },
  median_absolute_error: { name: "Median absolute error", better: "lower" },
  r2: { name: "R²", better: "higher" },
  bias: { name: "Bias", what: "mean of prediction − label" },
  pinball: { name: "Pinball loss", better: "lower" },
  coverage: { name: "Coverage" },
  deviance: { name: "Deviance", better: "lower" },
  mean_label: { name: "Mean label" },
  mean_prediction: { name: "Mean prediction" },
  rows: { name: "Held-out rows" },
  holdout_rows: { name: "Held-out rows" },
  positives: { name: "Held-out positives" },
  train_rows: { name: "Training rows" },
  train_positives: { name: "Training positives" },
  unmatured_rows: { name: "Rows without a label yet" },
  calibration_rows: { name: "Calibration rows" },
};

export function metricName(key: string): string {
  if (key.startsWith("champion.")) return `${metricName(key.slice(9))} of the champion then`;
  if (key.startsWith("uncalibrated.")) return `${metricName(key.slice(13))}, uncalibrated`;
  return KNOWN[key]?.name ?? key.replaceAll("_", " ");
}

export const metricNote = (key: string): string => KNOWN[key]?.what ?? "";

export const better = (key: string): "higher" | "lower" | undefined =>
  KNOWN[key.startsWith("champion.") ? key.slice(9) : key]?.better;

/** Counts as whole numbers, shares with four decimals so that columns line up. */
export function metricText(key: string, value: number | null | undefined): string {
  if (/rows$|positives$/.test(key)) return count(value);
  // In the unit of the label, whatever that is.
  if (/rmse|mae|absolute_error|bias|pinball|deviance|^mean_/.test(key)) return number(value, 4);
  return value != null && Math.abs(value) < 100 ? fixed(value, 4) : number(value, 5);
}

const ORDER = Object.keys(KNOWN);

/** Metrics in the order in which they are read. */
export function inOrder(keys: Iterable<string>): string[] {
  const place = (key: string) => {
    const i = ORDER.indexOf(key);
    return key.startsWith("champion.") ? 1000 + ORDER.indexOf(key.slice(9)) : i < 0 ? 500 : i;
  };
  return [...new Set(keys)].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

/** The one that a version is judged by first. */
export function mainMetric(metrics: Record<string, number | null>): string {
  return ["auc", "pinball", "rmse"].find((key) => key in metrics) ?? inOrder(Object.keys(metrics))[0] ?? "auc";
}
