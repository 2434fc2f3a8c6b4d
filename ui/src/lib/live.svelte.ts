/**
 * The figures of this moment, from one connection that all pages share: the stream of `GET /v1/live`, or `GET /v1/status` asked every second
 * of a server without it. A hidden tab holds no connection. Whatever comes between two frames is shown with the next one.
 */

import { ApiError, get, request } from "./api";
import { auth } from "./auth.svelte";
import type { Decision, LatencyNow, Live as Now, Status } from "./types";

/** One second, for charts. */
export interface Sample {
  /** Milliseconds since 1970, by this machine's clock. */
  at: number;
  events: number | null;
  decisions: number | null;
  outcomes: Record<string, number>;
  sources: Record<string, number>;
  freshness: LatencyNow;
  decide: LatencyNow;
}

/** Samples that are kept: five minutes. */
const KEPT = 300;
/** Decisions that are kept for the list of the newest. */
const SHOWN = 100;
const EVERY = 1000;
/** Decisions a second that the server is asked to show. */
const DECISIONS = 20;

class Live {
  /** The whole of `/v1/status`, at most ten seconds old. */
  status = $state.raw<Status>();
  now = $state.raw<Now>();
  /** Oldest first; a new array with each sample, so that charts see the change. */
  samples = $state.raw<Sample[]>([]);
  /** Newest first. */
  decisions = $state.raw<Decision[]>([]);
  /** Decisions made and not shown since the page was opened: more than a reader could follow. */
  passed = $state(0);
  /** Go up when something of the kind has happened, so that lists are read again. */
  alerts = $state(0);
  runs = $state(0);
  swaps = $state(0);
  state = $state<"connecting" | "live" | "polling" | "lost" | "tracking">("connecting");

  #before: { at: number; status: Status } | undefined;
  #waiting: Decision[] = [];
  #frame = 0;
  #turn = 0;
  #aborter: AbortController | undefined;

  constructor() {
    document.addEventListener("visibilitychange", () => this.again());
    this.again();
  }

  get latest(): Sample | undefined {
    return this.samples.at(-1);
  }

  /** Begins anew: after a key was given, and when the tab is looked at again. */
  again(): void {
    this.#turn += 1;
    this.#aborter?.abort();
    if (!document.hidden) void this.#run(this.#turn);
  }

  async #run(turn: number): Promise<void> {
    let streams = true;
    while (turn === this.#turn && !auth.wanted) {
      this.#aborter = new AbortController();
      const { signal } = this.#aborter;
      try {
        this.#take(await get<Status>("/v1/status", {}, signal), !streams);
        if (streams) await this.#follow(signal);
        else await pause(EVERY, signal);
      } catch (error) {
        if (turn !== this.#turn) return;
        // A server without a project has no status either: `kilter tracking`.
        if (!this.status && error instanceof ApiError && error.isMissingRoute) {
          this.state = "tracking";
          return;
        }
        // A server without the stream, or one with as many readers of it as it takes, is asked instead.
        if (streams && error instanceof ApiError && (error.isMissingRoute || error.status === 429)) {
          streams = false;
          continue;
        }
        this.state = "lost";
        await pause(2 * EVERY, signal);
      }
    }
  }

  /** Reads the stream to its end. */
  async #follow(signal: AbortSignal): Promise<void> {
    const response = await request(`/v1/live?decisions=${DECISIONS}`, { signal, headers: { accept: "text/event-stream" } });
    if (!response.body) return;
    this.state = "live";
    const whole = setInterval(() => {
      get<Status>("/v1/status", {}, signal).then(
        (status) => (this.status = status),
        () => undefined,
      );
    }, 10 * EVERY);
    const lines = new Lines();
    try {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        for (const { event, data } of lines.feed(value)) this.#event(event, data);
      }
    } finally {
      clearInterval(whole);
    }
  }

  #event(event: string, data: string): void {
    switch (event) {
      case "status":
        return this.#show(JSON.parse(data) as Now);
      case "decision":
        this.#waiting.push(JSON.parse(data) as Decision);
        if (this.#waiting.length > SHOWN) this.#waiting.shift();
        return this.#soon();
      case "dropped":
        this.passed += Number((JSON.parse(data) as { decisions: number }).decisions) || 0;
        return;
      case "alert":
        this.alerts += 1;
        return;
      case "run":
        this.runs += 1;
        return;
      case "swap":
        this.swaps += 1;
        return;
    }
  }

  #soon(): void {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.decisions = [...this.#waiting.reverse(), ...this.decisions].slice(0, SHOWN);
      this.#waiting = [];
    });
  }

  #show(now: Now): void {
    this.now = now;
    const outcomes: Record<string, number> = {};
    let decisions: number | null = null;
    for (const decision of now.decisions) {
      if (decision.per_second !== null) decisions = (decisions ?? 0) + decision.per_second;
      for (const { outcome, per_second } of decision.outcomes) outcomes[outcome] = (outcomes[outcome] ?? 0) + (per_second ?? 0);
    }
    if (now.window_seconds === null) return;
    const sample: Sample = {
      at: Date.now(),
      events: now.events_per_second,
      decisions,
      outcomes,
      sources: Object.fromEntries(now.sources.map((source) => [source.source, source.per_second ?? 0])),
      freshness: now.freshness,
      decide: now.decide,
    };
    this.samples = [...this.samples.slice(1 - KEPT), sample];
  }

  /** Of a server without the stream: what it would say is worked out from two looks. */
  #take(status: Status, show: boolean): void {
    const at = Date.now();
    const before = this.#before;
    this.#before = { at, status };
    this.status = status;
    if (!show) return;
    this.state = "polling";
    // A server that was started again counts from nought, and a tab that slept has no rate to tell of.
    const fresh = !before || status.uptime_seconds < before.status.uptime_seconds || at - before.at > 10 * EVERY;
    const seconds = fresh ? null : Math.max((at - before.at) / 1000, 0.001);
    const rate = (now: number, then: number | undefined) =>
      seconds === null || then === undefined ? null : Math.max(0, (now - then) / seconds);
    // Over the whole run of the server: of single seconds `/v1/status` knows nothing.
    const latency = ({ count, p50_us, p99_us, max_us }: Status["decide"]): LatencyNow => ({
      count,
      p50_us,
      p95_us: null,
      p99_us,
      max_us,
    });
    this.#show({
      at: new Date(at).toISOString(),
      window_seconds: seconds,
      ready: status.ready,
      events_per_second: rate(status.events, before?.status.events),
      event_time: status.event_time,
      next_offset: status.next_offset,
      durable_offset: status.durable_offset,
      definitions: status.definitions,
      apply: status.apply,
      sources: status.sources.map((source) => ({
        source: source.source,
        status: source.status,
        events: source.events,
        per_second: rate(source.events, before?.status.sources.find((s) => s.source === source.source)?.events),
        late: source.late,
        duplicates: source.duplicates,
        turned_away: Object.values(source.turned_away).reduce((a, b) => a + b, 0),
        watermark: source.watermark,
        last_arrival: source.last_arrival,
        silent_seconds: source.silent_seconds,
        lag: source.partitions.length ? source.partitions.reduce((sum, p) => sum + p.lag, 0) : null,
        problem: source.problem,
      })),
      decisions: Object.entries(status.decisions).map(([decision, counts]) => {
        const outcomes = Object.entries(counts).map(([outcome, total]) => ({
          outcome,
          total,
          per_second: rate(total, before?.status.decisions[decision]?.[outcome] ?? 0),
          share: null,
        }));
        const total = outcomes.reduce((sum, o) => sum + o.total, 0);
        const per_second = seconds === null ? null : outcomes.reduce((sum, o) => sum + (o.per_second ?? 0), 0);
        return { decision, model: null, total, per_second, outcomes };
      }),
      decide: latency(status.decide),
      freshness: latency(status.freshness),
      dead_letters: {
        total: Object.values(status.dead_letters).reduce((a, b) => a + b, 0),
        per_second: null,
        by_code: status.dead_letters,
      },
      sinks: status.sinks.map((sink) => ({
        sink: sink.sink,
        next: sink.next,
        end: sink.end,
        lag: sink.end - sink.next,
        problem: sink.problem,
      })),
      models: null,
      monitors: null,
    });
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done, { once: true });
  });
}

/** The frames of an event stream, from chunks that end anywhere. */
class Lines {
  #rest = "";
  #event = "";
  #data = "";

  feed(chunk: string): { event: string; data: string }[] {
    const found: { event: string; data: string }[] = [];
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "" || line === "\r") {
        if (this.#data) found.push({ event: this.#event, data: this.#data });
        this.#event = this.#data = "";
      } else if (line.startsWith("event:")) this.#event = line.slice(6).trim();
      else if (line.startsWith("data:")) this.#data += line.slice(5).trim();
    }
    return found;
  }
}

export const live = new Live();
