/** The pages: one line each. What lies behind `load` is fetched when the page is first opened. */

import type { Component } from "svelte";

export interface PageOf {
  /** First segment of the path; "" is the page at `/`. */
  path: string;
  title: string;
  group: "Operate" | "Learn" | "Define";
  /** Needs the tracking API only: shown by `kilter tracking` too, which has no project. */
  tracking?: boolean;
  /** Gets `id`, the rest of the path: `/ui/decisions/loan-17` opens `decisions` with `loan-17`. */
  load: () => Promise<{ default: Component<{ id: string }> | Component }>;
}

export const pages: PageOf[] = [
  { path: "", title: "Now", group: "Operate", load: () => import("./now/Now.svelte") },
  { path: "decisions", title: "Decisions", group: "Operate", load: () => import("./decisions/Decisions.svelte") },
  { path: "drift", title: "Drift", group: "Operate", load: () => import("./drift/Drift.svelte") },
  {
    path: "performance",
    title: "Performance",
    group: "Operate",
    load: () => import("./performance/Performance.svelte"),
  },
  { path: "alerts", title: "Alerts", group: "Operate", load: () => import("./alerts/Alerts.svelte") },
  { path: "dead-letters", title: "Dead letters", group: "Operate", load: () => import("./deadletters/DeadLetters.svelte") },
  { path: "sql", title: "SQL", group: "Operate", load: () => import("./sql/Sql.svelte") },
  { path: "models", title: "Models", group: "Learn", load: () => import("./models/Models.svelte") },
  { path: "runs", title: "Runs", group: "Learn", load: () => import("./runs/Runs.svelte") },
  { path: "features", title: "Features", group: "Define", load: () => import("./features/FeaturePages.svelte") },
  { path: "policies", title: "Policies", group: "Define", load: () => import("./policies/Policies.svelte") },
  { path: "project", title: "Project", group: "Define", load: () => import("./project/ProjectPage.svelte") },
  { path: "settings", title: "Settings", group: "Define", load: () => import("./settings/Settings.svelte") },
  {
    path: "experiments",
    title: "Experiments",
    group: "Learn",
    tracking: true,
    load: () => import("./experiments/Experiments.svelte"),
  },
  { path: "traces", title: "Traces", group: "Learn", tracking: true, load: () => import("./traces/Traces.svelte") },
  { path: "registry", title: "Registry", group: "Learn", tracking: true, load: () => import("./registry/Registry.svelte") },
];
