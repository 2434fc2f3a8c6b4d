import type { Day } from "../../parts/Calendar.svelte";
import type { FullModel, Run, Version } from "../../lib/types";

export interface Judged {
  run: Run;
  version: Version | undefined;
  tone: Day["tone"];
  word: string;
}

/** What came of a run, in a word: a failure, or what the gate said of the version it made. */
export function judge(run: Run, models: FullModel[]): Judged {
  const model = models.find((m) => m.model === run.model);
  const version = model?.versions.find((v) => v.run === run.id);
  const say = (tone: Day["tone"], word: string) => ({ run, version, tone, word });
  if (run.status === "failed") return say("bad", "failed");
  if (run.status !== "finished") return say("plain", run.status);
  if (!version) return say("plain", "finished");
  if (model?.history.some((m) => m.alias === "champion" && m.version === version.version)) return say("good", "into service");
  return version.notes.startsWith("not ") ? say("warn", "held back") : say("plain", "waits");
}

/** When a run belongs: at the event time it was made as of, which a backtest has none of, or when it began by the clock on the wall. */
export const timeOf = (run: Run, by: string): string | undefined => (by === "event" ? run.params["as_of"] : run.started_at);

const TONES: Day["tone"][] = ["bad", "warn", "good", "plain"];

/** Days with what came of their runs, newest first; a day has the tone of the worst of them. Runs of no day are left out. */
export function days(judged: Judged[], day: (run: Run) => string | undefined): Day[] {
  const by = new Map<string, Judged[]>();
  for (const one of judged) {
    const date = day(one.run);
    if (date === undefined) continue;
    by.set(date, [...(by.get(date) ?? []), one]);
  }
  return [...by]
    .map(([date, all]) => {
      const words = new Map<string, number>();
      for (const one of all) words.set(one.word, (words.get(one.word) ?? 0) + 1);
      return {
        date,
        count: all.length,
        tone: TONES.find((tone) => all.some((one) => one.tone === tone)) ?? "plain",
        words: `${all.length} ${all.length === 1 ? "run" : "runs"}: ${[...words].map(([word, n]) => (n === 1 ? word : `${n} ${word}`)).join(", ")}`,
      };
    })
    .sort((a, b) => b.date.localeCompare(a.date));
}
