/** What a page asks the server for: its data, or why there is none, asked again when what it depends on changes. */

import { ApiError } from "./api";
import { auth } from "./auth.svelte";

export interface Resource<T> {
  /** The newest answer; stays while the next one is on its way. */
  readonly data: T | undefined;
  readonly error: ApiError | undefined;
  readonly loading: boolean;
  reload(): void;
}

/** Call it while a component starts. `ask` is run again when a state that it reads before its first `await` changes; with `every`, also after so many milliseconds while the tab is visible; a function says so anew each time, and 0 never. */
export function resource<T>(ask: (signal: AbortSignal) => Promise<T>, every: number | (() => number) = 0): Resource<T> {
  let data = $state.raw<T>();
  let error = $state.raw<ApiError>();
  let loading = $state(true);
  let turn = $state(0);

  $effect(() => {
    void turn;
    void auth.turn;
    const aborter = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const pause = typeof every === "number" ? every : every();
    loading = true;
    void ask(aborter.signal)
      .then(
        (answer) => {
          if (aborter.signal.aborted) return;
          data = answer;
          error = undefined;
        },
        (reason: unknown) => {
          if (aborter.signal.aborted) return;
          error = reason instanceof ApiError ? reason : new ApiError(0, "unexpected", String(reason), null);
        },
      )
      .finally(() => {
        if (aborter.signal.aborted) return;
        loading = false;
        if (pause > 0) timer = setTimeout(again, pause);
      });
    const again = () => {
      if (document.hidden) timer = setTimeout(again, pause);
      else turn += 1;
    };
    return () => {
      aborter.abort();
      clearTimeout(timer);
    };
  });

  return {
    get data() {
      return data;
    },
    get error() {
      return error;
    },
    get loading() {
      return loading;
    },
    reload() {
      turn += 1;
    },
  };
}
