import { ApiError, get, getIfServed } from "../../lib/api";
import type { Evaluation, Version } from "../../lib/types";

/** What is known of a version on its held-out rows. */
export interface Known {
  evaluation: Evaluation | null;
  /** Why there is none. */
  why: string;
  hint: string;
  /** From the files of its run, where there is no more. */
  calibration: Evaluation["calibration"];
  importance: Evaluation["importance"];
}

export async function known(model: string, v: Version, signal: AbortSignal): Promise<Known> {
  const path = `/v1/models/${encodeURIComponent(model)}/versions/${v.version}/evaluation`;
  const none = { evaluation: null, calibration: [], importance: [] };
  let [why, hint] = ["This server keeps no curves of versions.", "A newer one does, for versions that are trained with it."];
  try {
    const answer = await getIfServed<{ evaluation: Evaluation }>(path, {}, signal);
    if (answer) return { ...none, evaluation: answer.evaluation, why: "", hint: "" };
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== "no_evaluation") throw error;
    [why, hint] = [error.message, error.hint ?? "Train again to have them."];
  }
  if (!v.run) return { ...none, why, hint };
  const files = `/v1/runs/${encodeURIComponent(v.run)}/artifacts`;
  const [kept, importance] = await Promise.all([
    get<{ calibration?: Evaluation["calibration"] }>(`${files}/evaluation.json`, {}, signal).catch(() => null),
    get<Record<string, number>>(`${files}/importance.json`, {}, signal).catch(() => null),
  ]);
  return {
    ...none,
    why,
    hint,
    calibration: kept?.calibration ?? [],
    importance: Object.entries(importance ?? {})
      .map(([feature, value]) => ({ feature, importance: value }))
      .sort((x, y) => y.importance - x.importance),
  };
}

/** Wilson's 95 % interval of a share. */
export function wilson(share: number, n: number): [number, number] {
  if (n === 0) return [0, 1];
  const z = 1.96;
  const base = 1 + (z * z) / n;
  const middle = share + (z * z) / (2 * n);
  const reach = z * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [(middle - reach) / base, (middle + reach) / base];
}

export const rocPoints = (e: Evaluation) => e.roc.map((p) => ({ x: p.false_positive_rate, y: p.true_positive_rate }));
export const prPoints = (e: Evaluation) => e.precision_recall.map((p) => ({ x: p.recall, y: p.precision }));
export const predictedPoints = (e: Evaluation) => e.calibration.map((b) => ({ x: b.mean_score, y: b.observed }));
export const gainPoints = (e: Evaluation) => [{ x: 0, y: 0 }, ...e.gains.map((g) => ({ x: g.share, y: g.captured }))];
export const calibrationPoints = (bins: Evaluation["calibration"]) =>
  bins.map((b) => {
    const [low, high] = wilson(b.observed, b.count);
    return { x: b.mean_score, y: b.observed, low, high };
  });
