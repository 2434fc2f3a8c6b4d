/** Distributions as bars. */

import { number } from "./format";

/** What each bin holds: `≤ 10`, `≤ 20`, …, `> 90`; with as many digits as tell them apart. */
export function binNames(edges: number[]): string[] {
  for (const digits of [3, 4, 6, 9]) {
    const names = [...edges.map((edge) => `≤ ${number(edge, digits)}`), `> ${number(edges.at(-1), digits)}`];
    if (new Set(names).size === names.length) return names;
  }
  return [...edges.map((edge, i) => `≤ ${edge} (${i + 1})`), `> ${edges.at(-1)}`];
}

/** Bins from edge to edge, named by where they begin. */
export function fromNames(edges: number[]): string[] {
  for (const digits of [3, 4, 6, 9]) {
    const names = edges.slice(0, -1).map((edge) => number(edge, digits));
    if (new Set(names).size === names.length) return names;
  }
  return edges.slice(0, -1).map((edge, i) => `${edge} (${i + 1})`);
}
