/** A version told on one page: what it is, what it learned from, how good it is, who put it into service. */

import type { Cell } from "../../lib/download";
import { count, moment, NONE, percent, zone } from "../../lib/format";
import type { FullModel, FullRun, Project, Version } from "../../lib/types";
import { inOrder, metricName, metricText } from "./metrics";

export interface Section {
  title: string;
  facts: [string, string][];
}

export function card(model: FullModel, v: Version, run: FullRun | undefined, project: Project | undefined): Section[] {
  const promoted = model.history.filter((m) => m.alias === "champion" && m.version === v.version);
  const [first, last] = [promoted.at(-1), promoted[0]];
  const declared = project?.models.find((m) => m.name === model.model);
  const decisions = (project?.decisions ?? []).filter((d) => d.model === model.model);
  const p = (name: string) => run?.params[name];
  return [
    {
      title: "What it is",
      facts: [
        ["Model", model.model],
        ["Version", String(v.version)],
        ["Aliases", v.aliases.join(", ") || "none"],
        ["Purpose", declared?.description ?? NONE],
        ["Owner", declared?.owner ?? NONE],
        ["Scores events of", model.on],
        ["Used by decisions", decisions.map((d) => `${d.name} (${d.outcomes.join(", ")})`).join("; ") || "none"],
        ["Kind", v.kind],
        ["Made", `${moment(v.created_at)} ${zone()}`],
        ["File", v.artifact],
      ],
    },
    {
      title: "What it learned from",
      facts: [
        ["Events from", `${moment(v.trained_from)} ${zone()}`],
        ["Events to", `${moment(v.trained_to)} ${zone()}`],
        ["Training rows", count(v.metrics["train_rows"])],
        ["Positive among them", share(v.metrics["train_positives"], v.metrics["train_rows"])],
        ["Held-out rows", count(v.metrics["holdout_rows"] ?? v.metrics["rows"])],
        ["Rows left out, label not known yet", count(v.metrics["unmatured_rows"])],
        ["Log up to offset", p("until_offset") ?? NONE],
        ["Label known within", model.label_within ?? NONE],
        ["Fingerprint of the data", run?.data_fingerprint ?? NONE],
        ["Definitions", v.definitions ?? NONE],
        ["Inputs", `${model.inputs.length}: ${model.inputs.join(", ")}`],
      ],
    },
    {
      title: "How it was made",
      facts: [
        ["Run", v.run ?? NONE],
        ["Begun by", run?.tags["trigger"] ?? NONE],
        ["Seed", run?.seed === null || run?.seed === undefined ? NONE : String(run.seed)],
        ...Object.entries(run?.params ?? {})
          .filter(([name]) => name.startsWith("learner."))
          .map(([name, value]): [string, string] => [name.slice(8).replaceAll("_", " "), value === "null" ? NONE : value]),
      ],
    },
    {
      title: "How good it is",
      facts: inOrder(Object.keys(v.metrics))
        .filter((key) => !/rows|positives/.test(key))
        .map((key) => [metricName(key), metricText(key, v.metrics[key])]),
    },
    {
      title: "Promotion",
      facts: [
        ["Verdict when it was made", v.notes || NONE],
        ["First put into service", first ? `${moment(first.at)} ${zone()} by ${first.actor}` : "never"],
        ["Reason", first?.reason ?? NONE],
        ...(last && last !== first
          ? [
              [
                "Last put into service",
                `${moment(last.at)} ${zone()} by ${last.actor}${last.is_rollback ? " (rollback)" : ""}`,
              ] as [string, string],
            ]
          : []),
        ["Decides from offset", last?.at_offset == null ? NONE : String(last.at_offset)],
        ["In service now", model.in_service === v.version ? "yes" : "no"],
      ],
    },
  ];
}

function share(part: number | null | undefined, whole: number | null | undefined): string {
  return part == null || !whole ? NONE : `${count(part)} (${percent(part / whole)})`;
}

export function markdown(title: string, sections: Section[]): string {
  const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");
  const parts = sections.map((s) =>
    [`## ${s.title}`, "", "| | |", "|---|---|", ...s.facts.map(([name, value]) => `| ${cell(name)} | ${cell(value)} |`)].join(
      "\n",
    ),
  );
  return `# ${title}\n\n${parts.join("\n\n")}\n`;
}

export const rows = (sections: Section[]): Cell[][] =>
  sections.flatMap((s) => s.facts.map(([name, value]) => [s.title, name, value]));
