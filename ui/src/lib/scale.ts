/** Colours and axes of charts. */

/** The class of a series, which is also the name of its colour in the style sheet: six, then again from the first. */
export const series = (i: number) => `s${(i % 6) + 1}`;

/** Round values from `low` to `high`, about `wanted` of them. */
export function ticks(low: number, high: number, wanted = 5): number[] {
  const room = high - low;
  if (!(room > 0) || !Number.isFinite(room)) return [low];
  const rough = room / Math.max(wanted, 1);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((s) => s >= rough * 0.999) ?? 10 * size;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const DAY = 86_400_000;
const STEPS = [1, 5, 15, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200]
  .map((seconds) => seconds * 1000)
  .concat([1, 2, 7, 14, 28, 56, 91, 182, 364].map((days) => days * DAY));

/** Round times (milliseconds since 1970) from `low` to `high`: full hours, midnights, Mondays, all by UTC. */
export function timeTicks(low: number, high: number, wanted = 5): number[] {
  const step = STEPS.find((s) => (high - low) / s <= wanted + 0.5) ?? Math.ceil((high - low) / wanted / (364 * DAY)) * 364 * DAY;
  const monday = step >= 7 * DAY ? 4 * DAY : 0;
  const first = Math.ceil((low - monday) / step);
  const last = Math.floor((high - monday) / step);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => (first + i) * step + monday);
}

/** The least and the largest of what is defined; `[0, 1]` where nothing is. */
export function extent(values: Iterable<number | null | undefined>): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value == null || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  return low === high ? [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1] : [low, high];
}
