/** The definitions in force, asked once and again when they change: pages look up outcomes, policies and views here. */

import { get } from "./api";
import { auth } from "./auth.svelte";
import { live } from "./live.svelte";
import type { Project } from "./types";

class Definitions {
  value = $state.raw<Project>();
  #asked = "";

  constructor() {
    $effect.root(() => {
      $effect(() => {
        const definitions = live.status?.definitions;
        void auth.turn;
        if (definitions && definitions !== this.#asked) {
          this.#asked = definitions;
          get<Project>("/v1/project").then(
            (project) => (this.value = project),
            () => (this.#asked = ""),
          );
        }
      });
    });
  }

  /** The colour of an outcome: its place among the outcomes of its decision, so that it is the same in every chart. */
  series(outcome: string, decision?: string): number {
    const decisions = this.value?.decisions ?? [];
    const of = decisions.find((d) => d.name === decision) ?? decisions.find((d) => d.outcomes.includes(outcome));
    const i = of?.outcomes.indexOf(outcome) ?? -1;
    // The policy begins with what it refuses and ends with what it lets pass: the accent belongs to the last.
    return i < 0 || !of ? 5 : of.outcomes.length - 1 - i;
  }

  /** Outcomes of all decisions, those that pass first. */
  get outcomes(): string[] {
    return [...new Set((this.value?.decisions ?? []).flatMap((d) => d.outcomes.toReversed()))];
  }
}

export const definitions = new Definitions();
