import type { AliasMove, FullModel, Version } from "../../lib/types";

/** The version that a rollback goes to: each promotion is a step up, each rollback a step down to the nearest different version. */
export function before(history: AliasMove[]): number | null {
  const steps: number[] = [];
  for (const move of history.filter((m) => m.alias === "champion").toReversed()) {
    if (move.version === null) continue;
    if (move.is_rollback) while (steps.length && steps.at(-1) !== move.version) steps.pop();
    else if (steps.at(-1) !== move.version) steps.push(move.version);
  }
  return steps.at(-2) ?? null;
}

/** Since when the version in service is there. */
export function inServiceSince(model: FullModel): AliasMove | undefined {
  return model.history.find((m) => m.alias === "champion" && m.version === model.in_service);
}

export const version = (model: FullModel, number: number | null | undefined): Version | undefined =>
  model.versions.find((v) => v.version === number);

/** What decided on the version when it was trained, in a word. */
export function verdict(v: Version): { text: string; tone: "good" | "warn" | "plain" } {
  if (v.notes.startsWith("not ")) return { text: "held back", tone: "warn" };
  if (v.notes.startsWith("waits")) return { text: "waits", tone: "plain" };
  if (v.notes.startsWith("first version")) return { text: "first", tone: "plain" };
  return v.notes.includes(" champion") || v.notes.startsWith("promoted")
    ? { text: "passed", tone: "good" }
    : { text: "noted", tone: "plain" };
}
