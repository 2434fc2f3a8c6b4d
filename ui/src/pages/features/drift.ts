import { get, getIfServed } from "../../lib/api";
import type { History, Monitor } from "../../lib/types";

/** The newest buckets of the monitors that watch inputs by their distribution; empty where a server keeps none. */
export async function drifts(signal: AbortSignal): Promise<History[]> {
  const { monitors } = await get<{ monitors: Monitor[] }>("/v1/monitors", {}, signal);
  const asked = monitors
    .filter((m) => m.signal === "psi")
    .map((m) => getIfServed<History>(`/v1/monitors/${encodeURIComponent(m.name)}/history`, { limit: 120 }, signal));
  return (await Promise.all(asked)).filter((h) => h !== null);
}

/** The newest value of one input, from whichever monitor has it. */
export function newest(
  histories: History[],
  input: string,
): { value: number; above: number | null; history: History } | undefined {
  for (const history of histories) {
    const i = history.features.indexOf(input);
    const bucket = i < 0 ? undefined : history.buckets.find((b) => b.values[i] != null);
    const value = bucket?.values[i];
    if (bucket && value != null) return { value, above: bucket.above ?? history.above, history };
  }
  return undefined;
}
