/** Answers of the API, as far as pages use them. `/docs` of a server describes all of it. */

/** RFC 3339, UTC. */
export type Time = string;

export interface Latency {
  count: number;
  p50_us: number;
  p99_us: number;
  p999_us: number;
  max_us: number;
}

export interface SourceState {
  source: string;
  status: string;
  received: number;
  events: number;
  late: number;
  duplicates: number;
  turned_away: Record<string, number>;
  watermark: Time | null;
  last_arrival: Time | null;
  silent_seconds: number | null;
  partitions: { partition: number; next: number; end: number; lag: number }[];
  problem: string | null;
}

export interface ViewState {
  view: string;
  entities: number;
  in_memory: number;
  tiles: number;
  bytes: number;
  heaviest: { entity: unknown; bytes: number }[];
  busiest: { entity: unknown; share: number; at_least: number }[];
  events: number;
  applied: number;
  late: number;
  no_key: number;
  filtered: number;
  retracted: number;
}

export interface ApplyState {
  from: string;
  to: string;
  phase: string;
  offset: number;
  end: number;
  seconds: number;
  swapped_at: number | null;
  error: string | null;
}

export interface Status {
  project: string;
  version: string;
  uptime_seconds: number;
  ready: boolean;
  events: number;
  duplicates: number;
  late: number;
  dead_letters: Record<string, number>;
  decisions: Record<string, Record<string, number>>;
  sources: SourceState[];
  sinks: { sink: string; next: number; end: number; delivered: number; problem: string | null }[];
  lake: { next: number; files: number; bytes: number; waiting: number; problem: string | null } | null;
  next_offset: number;
  durable_offset: number;
  event_time: Time | null;
  snapshots: number;
  state: ViewState[];
  freshness: Latency;
  decide: Latency;
  definitions: string;
  apply: ApplyState | null;
}

export interface Reason {
  feature: string;
  value: number | null;
  contribution: number;
}

export interface Decision {
  decision_id: string;
  decision: string;
  outcome: string;
  score: number | null;
  model: string | null;
  model_version: number | null;
  reasons: Reason[];
  as_of_offset: number;
  time: Time;
  rule: string | null;
  recorded: boolean;
}

export interface FullDecision extends Decision {
  margin: number | null;
  inputs: Record<string, number | null>;
  definitions: string;
}

export interface Replay {
  id: string;
  same: boolean;
  difference: string | null;
  inputs_erased: boolean;
  from_offset: number;
  recorded: FullDecision;
  again: FullDecision | null;
  context: Record<string, unknown>;
}

export interface Page {
  next: number | null;
}

export interface Decisions extends Page {
  decisions: Decision[];
  /** Event time of the oldest decision that was looked at. */
  back_to?: Time | null;
}

export interface Model {
  model: string;
  on: string;
  inputs: string[];
  in_service: number | null;
  latest: number | null;
  aliases: Record<string, number>;
  label_within: string | null;
  window: string | null;
  holdout: number;
  min_rows: number;
}

export interface Version {
  version: number;
  aliases: string[];
  created_at: Time;
  run: string | null;
  kind: string;
  artifact: string;
  trained_from: Time | null;
  trained_to: Time | null;
  metrics: Record<string, number | null>;
  definitions: string | null;
  notes: string;
}

export interface AliasMove {
  alias: string;
  version: number | null;
  at: Time;
  at_offset: number | null;
  actor: string;
  reason: string;
  is_rollback: boolean;
}

export interface FullModel extends Model {
  versions: Version[];
  history: AliasMove[];
}

export interface Reading {
  at: Time;
  subject: string;
  value: number | null;
  rows: number;
  crossed: number | null;
}

export interface Monitor {
  name: string;
  model: string;
  signal: string;
  above: number | null;
  below: number | null;
  window: string;
  every: string;
  min_rows: number;
  retrain: boolean;
  state: string;
  readings: Reading[];
}

export interface Watch {
  name: string;
  kind: string;
  source: string | null;
  state: string;
  threshold: number;
  value: number | null;
  at: Time | null;
}

export interface Alert {
  id: number;
  at: Time;
  monitor: string;
  model: string | null;
  signal: string;
  subject: string;
  value: number | null;
  threshold: number | null;
  action: string;
  detail: string;
}

export interface DeadLetter {
  offset: number;
  at: Time;
  source: string | null;
  code: string;
  detail: string;
  hint: string | null;
  log_offset: number | null;
  origin: string | null;
  payload: string | null;
  payload_base64: boolean;
  payload_cut: boolean;
}

export interface Run {
  id: string;
  kind: string;
  name: string;
  model: string | null;
  status: string;
  started_at: Time;
  ended_at: Time | null;
  params: Record<string, string>;
  metrics: Record<string, number | null>;
  tags: Record<string, string>;
  definitions: string | null;
  data_fingerprint: string | null;
  seed: number | null;
  error: string | null;
}

export interface FullRun extends Run {
  artifacts: { name: string; bytes: number; hash: string }[];
}

export interface PolicyRule {
  when: string | null;
  outcome: string;
}

export interface Project {
  name: string;
  definitions: string;
  clock: string;
  sources: {
    name: string;
    owner: string | null;
    description: string | null;
    time: string;
    id: string | null;
    key: string[];
    lateness: string;
    dedupe: string;
    columns: { name: string; type: string; required: boolean; personal_data: boolean; description: string | null }[];
  }[];
  views: {
    name: string;
    owner: string | null;
    description: string | null;
    source: string;
    entity: string[];
    features: {
      name: string;
      type: string;
      window: string | null;
      text: string;
      description: string | null;
      personal_data?: string[];
    }[];
  }[];
  services: { name: string; owner: string | null; description: string | null; keys: Record<string, string>; views: string[] }[];
  models: {
    name: string;
    owner: string | null;
    description: string | null;
    on: string;
    inputs: { name: string; text: string }[];
  }[];
  decisions: {
    name: string;
    owner: string | null;
    description: string | null;
    source: string;
    model: string | null;
    outcomes: string[];
    policy: PolicyRule[];
    fallback: string | null;
  }[];
  schedules: { name: string; model: string; every: string; promote_if: string | null; next: Time | null }[];
  monitors: string[];
  objects: { kind: string; name: string; hash: string }[];
}

export interface Features {
  view: string;
  key: string;
  mode: string;
  at: Time;
  as_of_offset: number;
  watermark: Time | null;
  features: Record<string, unknown>;
  last_event: Time | null;
  freshness?: Record<string, Time | null>;
  incomplete?: string[];
}

/** Latencies of one second; null where nothing was measured. */
export interface LatencyNow {
  count: number;
  p50_us: number | null;
  p95_us: number | null;
  p99_us: number | null;
  max_us: number | null;
}

/** An event `status` of `GET /v1/live`. */
export interface Live {
  at: Time;
  window_seconds: number | null;
  ready: boolean;
  events_per_second: number | null;
  event_time: Time | null;
  next_offset: number;
  durable_offset: number;
  definitions: string;
  apply: { phase: string; offset: number; end: number; error: string | null } | null;
  sources: {
    source: string;
    status: string;
    events: number;
    per_second: number | null;
    late: number;
    duplicates: number;
    turned_away: number;
    watermark: Time | null;
    last_arrival: Time | null;
    silent_seconds: number | null;
    lag: number | null;
    problem: string | null;
  }[];
  decisions: {
    decision: string;
    model: string | null;
    total: number;
    per_second: number | null;
    outcomes: { outcome: string; total: number; per_second: number | null; share: number | null }[];
  }[];
  decide: LatencyNow;
  freshness: LatencyNow;
  dead_letters: { total: number; per_second: number | null; by_code: Record<string, number> };
  sinks: { sink: string; next: number; end: number; lag: number; problem: string | null }[];
  /** Null: asked of a server without the stream. */
  models: { model: string; in_service: number | null }[] | null;
  monitors:
    { monitor: string; model: string; state: string; subject: string | null; value: number | null; at: Time | null }[] | null;
}

export interface Bucket {
  at: Time;
  rows: number;
  model_version: number | null;
  subject: string;
  value: number | null;
  state: string;
  above: number | null;
  below: number | null;
  values: (number | null)[];
}

export interface History extends Page {
  monitor: string;
  model: string;
  signal: string;
  window: string;
  every: string;
  above: number | null;
  below: number | null;
  features: string[];
  /** Newest first. */
  buckets: Bucket[];
}

export interface Counts {
  rows: number;
  missing: number;
  counts: number[];
}

export interface Distributions {
  monitor: string;
  model: string;
  model_version: number | null;
  feature: string;
  at: Time;
  window: string;
  rows: number;
  value: number | null;
  state: string;
  edges: number[];
  reference: Counts;
  current: Counts;
}

// What pages on models, runs, features and definitions read.

export interface Bins {
  low: number;
  high: number;
  count: number;
}

/** A version on the rows that were held out when it was trained. */
export interface Evaluation {
  task: "classes" | "numbers" | "anomalies";
  rows: number;
  positives: number | null;
  rows_from: Time | null;
  rows_to: Time | null;
  roc: { threshold: number | null; false_positive_rate: number; true_positive_rate: number }[];
  precision_recall: { threshold: number; recall: number; precision: number }[];
  /** Where labels are numbers: mean prediction and mean label. */
  calibration: (Bins & { mean_score: number; observed: number })[];
  gains: {
    low: number;
    high: number;
    rows: number;
    positives: number;
    rate: number;
    lift: number;
    share: number;
    captured: number;
    cumulative_lift: number;
    ks: number;
  }[];
  thresholds: Confusion[];
  scores: { edges: number[]; positives: number[] | null; negatives: number[] | null; all: number[] };
  residuals: { edges: number[]; all: number[] } | null;
  importance: { feature: string; importance: number }[];
  shap: Shap | null;
}

export interface Confusion {
  threshold: number;
  true_positives: number;
  false_positives: number;
  true_negatives: number;
  false_negatives: number;
}

export interface Shap {
  rows: number;
  base: number;
  features: { feature: string; mean_abs: number; mean: number; categorical: boolean }[];
  dependence: {
    feature: string;
    bins: (Bins & { mean: number; p10: number; p90: number })[];
    missing: { count: number; mean: number | null };
  }[];
}

/** How values fell: bin 0 holds those up to the first edge, the last one those above the last edge. */
export interface Distribution extends Counts {
  edges: number[];
}

export interface References {
  model: string;
  version: number;
  features: (Distribution & { feature: string })[];
}

export interface Trained {
  run: string;
  model: string;
  version: number;
  promote: boolean;
  verdict: string;
  trained_from: Time;
  trained_to: Time;
  train_rows: number;
  unmatured: number;
}

export interface InService {
  model: string;
  version: number;
  offset: number;
}

export interface Difference {
  what: string;
  old: string | null;
  new: string | null;
}

export interface ObjectChange {
  kind: string;
  name: string;
  change: "added" | "changed" | "dropped" | "unchanged";
  old_hash: string | null;
  new_hash: string | null;
  differences: Difference[];
  features?: ObjectChange[];
  backfill?: boolean;
  state?: { entities: number; bytes_per_entity: number; bytes: number; one_in: number };
  champion?: { version: number | null; stays: boolean; fallback: Record<string, string | null> };
}

export interface ChangePlan {
  from: string;
  to: string;
  changes: boolean;
  objects: ObjectChange[];
  beside: Difference[];
  restart: string[];
  backfill: { from_offset: number; events: number; bytes: number; views: string[]; seconds: number; sampled: number } | null;
  decisions: { definitions: string; decision: string; count: number; replayable: boolean; reason: string | null }[];
}

// Policies

export interface Truth {
  labelled: number;
  mean_label: number | null;
}

/** What another policy would have decided. */
export interface Backtest {
  run: string;
  /** The list as it would stand in the definitions file; a run that is looked at later has none. */
  toml?: string;
  decision: string;
  cases: number;
  changed: number;
  first: string | null;
  last: string | null;
  outcomes: { outcome: string; before: number; after: number; before_truth: Truth; after_truth: Truth }[];
  moves: ({ before: string; after: string; cases: number } & Truth)[];
  before: RuleCount[];
  after: RuleCount[];
  periods: { from: string; to: string; cases: number; changed: number; before: number[]; after: number[] }[];
  examples: BacktestExample[];
}

export interface RuleCount {
  when: string | null;
  outcome: string;
  cases: number;
}

export interface BacktestExample {
  decision_id: string;
  time: string;
  score: number | null;
  before: string;
  after: string;
  before_rule: string | null;
  after_rule: string | null;
  label: number | null;
}

/** `backtest.json` of a run: the past under other definitions, beside what was decided. */
export interface BacktestReport {
  definitions: string;
  from_offset: number;
  until_offset: number;
  compared: number;
  changed: number;
  only_recorded: number;
  only_again: number;
  without_model: number;
  decisions: {
    decision: string;
    compared: number;
    changed: number;
    moves: { recorded: string; again: string; count: number }[];
    periods: { from: Time; to: Time; recorded: Record<string, number>; again: Record<string, number> }[];
  }[];
  examples: { decision_id: string; time: Time; recorded: MadeThen; again: MadeThen }[];
}

export interface MadeThen {
  outcome: string;
  score: number | null;
  model_version: number | null;
  rule: string | null;
}

/** `GET /v1/lake` */
export interface Lake {
  next: number;
  first: number;
  log_start: number;
  waiting: number;
  files: number;
  bytes: number;
  expired_before: string | null;
  problem: string | null;
}

/** How far definitions are that are being taken up. */
export interface Applying {
  phase: "filling" | "done" | "failed";
  to: string;
  error: string | null;
}

// Performance

/** With its 95 % interval, where there are rows enough for one. */
export interface Figure {
  value: number;
  low: number | null;
  high: number | null;
}

/** From the scores alone: where the realised figure of so many rows lies if scores are calibrated. */
export interface Estimated {
  rows: number;
  rate: Figure;
  auc: Figure | null;
  log_loss: Figure | null;
  brier: Figure | null;
}

/** From labels that are known. */
export interface Realised {
  rows: number;
  positives: number | null;
  rate: Figure | null;
  mean_score: number | null;
  auc: Figure | null;
  log_loss: Figure | null;
  brier: Figure | null;
  calibration_error: { value: number; by_chance: number } | null;
  rmse: Figure | null;
  mae: Figure | null;
  bias: Figure | null;
  pinball: Figure | null;
  coverage: Figure | null;
  deviance: Figure | null;
  /** The estimate for exactly these rows. */
  expected: Estimated | null;
}

export interface Slice {
  decisions: number;
  scored: number;
  matured: number;
  labelled: number;
  mean_score: number | null;
  outcomes: {
    outcome: string;
    decisions: number;
    share: Figure | null;
    mean_score: number | null;
    labelled: number;
    rate: Figure | null;
  }[];
  realised: Realised | null;
  estimated: Estimated | null;
}

export interface Cohort extends Slice {
  from: Time;
  to: Time;
  /** When its last label is final. */
  complete_at: Time | null;
}

export interface SegmentGroup extends Slice {
  group: string;
  kind: "value" | "range" | "other" | "missing";
  values: number | null;
  /** Too few decisions, or too few labels, to judge it by. */
  few: boolean;
  few_labelled: boolean;
  favourable: { decisions: number; share: Figure | null };
  impact_ratio: Figure | null;
  below_four_fifths: boolean | null;
  true_positive_rate: Figure | null;
  false_positive_rate: Figure | null;
  equal_opportunity: Figure | null;
}

export interface Segment {
  name: string;
  kind: "column" | "input";
  cut: "value" | "range";
  reference: string | null;
  highest: string | null;
  equal_opportunity_difference: number | null;
  demographic_parity_difference: number | null;
  groups: SegmentGroup[];
}

export interface Performance {
  model: string;
  decision: string;
  task: "classes" | "numbers" | "anomalies";
  has_label: boolean;
  horizon: string | null;
  /** The label of a case whose horizon ended without one. */
  absent: number | null;
  calibration: string | null;
  as_of: Time | null;
  by: "hour" | "day" | "week" | "month";
  favourable: string[];
  good_label: number | null;
  outcomes: string[];
  versions: { version: number | null; decisions: number; first: Time; last: Time }[];
  left_out: { erased: number; other_model: number; without_event: number };
  total: Slice;
  calibration_curve: (Bins & { mean_score: number; observed: Figure | null })[];
  cohorts: Cohort[];
  segment: Segment | null;
}
