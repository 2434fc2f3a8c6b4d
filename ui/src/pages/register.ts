/** The pages: one line each. What lies behind `load` is fetched when the page is first opened. */

import type { Component } from "svelte";

export interface PageOf {
  /** First segment of the path; "" is the page at `/`. */
  path: string;
  title: string;
  group: "Operate" | "Learn" | "Define";
  /** Gets `id`, the rest of the path: `/ui/decisions/loan-17` opens `decisions` with `loan-17`. */
  load: () => Promise<{ default: Component<{ id: string }> | Component }>;
}

export const pages: PageOf[] = [
  { path: "", title: "Now", group: "Operate", load: () => import("./now/Now.svelte") },
  { path: "decisions", title: "Decisions", group: "Operate", load: () => import("./decisions/Decisions.svelte") },
  { path: "drift", title: "Drift", group: "Operate", load: () => import("./drift/Drift.svelte") },
  { path: "alerts", title: "Alerts", group: "Operate", load: () => import("./alerts/Alerts.svelte") },
  { path: "policies", title: "Policies", group: "Define", load: () => import("./policies/Policies.svelte") },
];
