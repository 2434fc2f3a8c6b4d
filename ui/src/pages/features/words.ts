/** Definitions of features in words, and what consumes them. */

import type { Project } from "../../lib/types";

type View = Project["views"][number];
export type Feature = View["features"][number];

const WORDS: Record<string, (x: string) => string> = {
  sum: (x) => `Sum of ${x}`,
  mean: (x) => `Mean of ${x}`,
  avg: (x) => `Mean of ${x}`,
  min: (x) => `Smallest ${x}`,
  max: (x) => `Largest ${x}`,
  first: (x) => `First ${x}`,
  last: (x) => `Newest ${x}`,
  stddev: (x) => `Standard deviation of ${x}`,
  variance: (x) => `Variance of ${x}`,
  approx_distinct: (x) => `How many different values of ${x} (about)`,
  distinct: (x) => `How many different values of ${x}`,
  time_since_last: () => "Seconds since the newest event",
  time_since_first: () => "Seconds since the first event",
};

/** The definition without its windows: a feature has one of them. */
export const expression = (feature: Feature): string => feature.text.replace(/ over [^()]*$/, "");

/** "Sum of amount where amount > 0, over the newest 7d of transactions of one account_id"; "" for what has no simple words. `inView`: where source and entity are told elsewhere. */
export function words(feature: Feature, view: View, inView = false): string {
  const found = /^(\w+)\((.*)\)(?: where (.+))?$/.exec(expression(feature));
  if (!found) return "";
  const [, name = "", inner = "", where] = found;
  const quantile = name === "quantile" ? /^(.*), ([\d.]+)$/.exec(inner) : null;
  const what = quantile
    ? quantile[2] === "0.5"
      ? `Median of ${quantile[1]}`
      : `${Number(quantile[2]) * 100} % quantile of ${quantile[1]}`
    : name === "count"
      ? inner === "*" || inner === ""
        ? "How many events there are"
        : `How many events have ${inner}`
      : WORDS[name]?.(inner);
  if (!what) return "";
  const over = feature.window ? `the newest ${feature.window}` : "the whole history";
  return `${what}${where ? ` where ${where}` : ""}, over ${over}${inView ? "" : ` of ${view.source} of one ${view.entity.join(" and ")}`}`;
}

export interface Consumers {
  models: string[];
  decisions: string[];
  services: string[];
}

/** Who looks at a feature, or at any of a view. */
export function consumers(project: Project | undefined, view: string, feature?: string): Consumers {
  const name = feature ? `${view}.${feature}` : `${view}.`;
  const pattern = new RegExp(`(^|[^\\w.])${name.replace(".", "\\.")}${feature ? "(?![\\w])" : ""}`);
  const models = (project?.models ?? []).filter((m) => m.inputs.some((i) => pattern.test(i.text))).map((m) => m.name);
  const decisions = (project?.decisions ?? [])
    .filter((d) => (d.model && models.includes(d.model)) || d.policy.some((rule) => rule.when && pattern.test(rule.when)))
    .map((d) => d.name);
  const services = (project?.services ?? []).filter((s) => s.views.includes(view)).map((s) => s.name);
  return { models, decisions, services };
}
