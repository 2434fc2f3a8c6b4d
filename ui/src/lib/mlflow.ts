/** The tracking API that MLflow's clients speak: what the pages Experiments, Traces and Registry know of it. */

import { get, post, request, withQuery, type Query } from "./api";
import { auth } from "./auth.svelte";
import { save } from "./download";
import { NONE, number } from "./format";

const V2 = "/api/2.0/mlflow";
const V3 = "/api/3.0/mlflow";

/** What is no finite number comes as a text: "NaN". */
export type Double = number | string;

export interface Tag {
  key: string;
  value: string;
}
export type Param = Tag;

export interface Metric {
  key: string;
  value: Double;
  timestamp: number;
  step?: number;
  run_id?: string;
}

export interface Experiment {
  experiment_id: string;
  name: string;
  artifact_location: string;
  lifecycle_stage: "active" | "deleted";
  creation_time?: number;
  last_update_time?: number;
  tags?: Tag[];
}

export interface RunInfo {
  run_id: string;
  run_name?: string;
  experiment_id: string;
  user_id?: string;
  status: string;
  start_time?: number;
  end_time?: number;
  artifact_uri?: string;
  lifecycle_stage: "active" | "deleted";
}

export interface DatasetInput {
  tags?: Tag[];
  dataset: { name: string; digest: string; source_type: string; source: string; schema?: string; profile?: string };
}

export interface Run {
  info: RunInfo;
  data: { metrics?: Metric[]; params?: Param[]; tags?: Tag[] };
  inputs?: { dataset_inputs?: DatasetInput[]; model_inputs?: { model_id: string }[] };
  outputs?: { model_outputs?: { model_id: string; step?: number }[] };
}

export interface RunsPage {
  runs?: Run[];
  next_page_token?: string;
}

export interface FileInfo {
  path: string;
  is_dir: boolean;
  file_size?: number;
}

export interface LoggedModel {
  info: {
    model_id: string;
    experiment_id: string;
    name: string;
    creation_timestamp_ms: number;
    artifact_uri: string;
    status: string;
    model_type?: string;
    source_run_id?: string;
    tags?: Tag[];
  };
  data: { params?: Param[]; metrics?: Metric[] };
}

export interface ModelVersion {
  name: string;
  version: string;
  creation_timestamp: number;
  last_updated_timestamp: number;
  current_stage: string;
  description?: string;
  source?: string;
  run_id?: string;
  status: string;
  status_message?: string;
  tags?: Tag[];
  aliases?: string[];
}

export interface RegisteredModel {
  name: string;
  creation_timestamp: number;
  last_updated_timestamp: number;
  description?: string;
  latest_versions?: ModelVersion[];
  tags?: Tag[];
  aliases?: { alias: string; version: string }[];
}

export interface Assessment {
  assessment_id: string;
  assessment_name: string;
  source: { source_type: string; source_id: string };
  create_time: string;
  feedback?: { value?: unknown; error?: { error_code?: string; error_message?: string } };
  expectation?: { value?: unknown; serialized_value?: { value: string } };
  rationale?: string;
  span_id?: string;
  valid?: boolean;
}

export interface TraceInfo {
  trace_id: string;
  trace_location: { mlflow_experiment?: { experiment_id: string } };
  request_preview?: string;
  response_preview?: string;
  request_time: string;
  execution_duration?: string;
  state: string;
  trace_metadata?: Record<string, string>;
  tags?: Record<string, string>;
  assessments?: Assessment[];
}

export interface AnyValue {
  string_value?: string;
  bool_value?: boolean;
  int_value?: number | string;
  double_value?: Double;
  array_value?: { values?: AnyValue[] };
  kvlist_value?: { values?: KeyValue[] };
  bytes_value?: string;
}

export interface KeyValue {
  key: string;
  value?: AnyValue;
}

export interface Span {
  span_id: string;
  parent_span_id?: string;
  name: string;
  start_time_unix_nano: number | string;
  end_time_unix_nano?: number | string;
  attributes?: KeyValue[];
  events?: { name: string; time_unix_nano: number | string; attributes?: KeyValue[] }[];
  links?: { trace_id: string; span_id: string }[];
  status?: { code?: string; message?: string };
}

/** Of a query with a name that comes several times. */
const many = (name: string, values: string[]) => values.map((v) => `${name}=${encodeURIComponent(v)}`).join("&");

async function change<T>(method: string, path: string, body: unknown): Promise<T> {
  const response = await request(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const text = await response.text();
  return (text ? JSON.parse(text) : null) as T;
}

export const mlflow = {
  experiments: (body: object, signal?: AbortSignal) =>
    post<{ experiments?: Experiment[]; next_page_token?: string }>(`${V2}/experiments/search`, body, signal),
  experiment: (id: string, signal?: AbortSignal) =>
    get<{ experiment: Experiment }>(`${V2}/experiments/get`, { experiment_id: id }, signal).then((x) => x.experiment),
  runs: (body: object, signal?: AbortSignal) => post<RunsPage>(`${V2}/runs/search`, body, signal),
  run: (id: string, signal?: AbortSignal) =>
    get<{ run: Run }>(`${V2}/runs/get`, { run_id: id }, signal).then((answer) => answer.run),
  /** Points of one metric of several runs, thinned out by steps to `most` for each. */
  curves: (runs: string[], key: string, most: number, signal?: AbortSignal) =>
    get<{ metrics?: Metric[] }>(
      `${V2}/metrics/get-history-bulk-interval?${many("run_ids", runs)}&metric_key=${encodeURIComponent(key)}&max_results=${most}`,
      {},
      signal,
    ).then((answer) => answer.metrics ?? []),
  artifacts: (run: string, path: string, token: string, signal?: AbortSignal) =>
    get<{ root_uri?: string; files?: FileInfo[]; next_page_token?: string }>(
      `${V2}/artifacts/list`,
      { run_id: run, path, page_token: token },
      signal,
    ),
  loggedModels: (body: object, signal?: AbortSignal) =>
    post<{ models?: LoggedModel[]; next_page_token?: string }>(`${V2}/logged-models/search`, body, signal),
  versions: (query: Query, signal?: AbortSignal) =>
    get<{ model_versions?: ModelVersion[]; next_page_token?: string }>(`${V2}/model-versions/search`, query, signal),
  version: (name: string, version: string, signal?: AbortSignal) =>
    get<{ model_version: ModelVersion }>(`${V2}/model-versions/get`, { name, version }, signal).then((x) => x.model_version),
  models: (query: Query, signal?: AbortSignal) =>
    get<{ registered_models?: RegisteredModel[]; next_page_token?: string }>(`${V2}/registered-models/search`, query, signal),
  model: (name: string, signal?: AbortSignal) =>
    get<{ registered_model: RegisteredModel }>(`${V2}/registered-models/get`, { name }, signal).then((x) => x.registered_model),
  traces: (body: object, signal?: AbortSignal) =>
    post<{ traces?: TraceInfo[]; next_page_token?: string }>(`${V3}/traces/search`, body, signal),
  trace: (id: string, signal?: AbortSignal) =>
    get<{ trace: { trace_info: TraceInfo; spans?: Span[] } }>(`${V3}/traces/get`, { trace_id: id }, signal).then((x) => x.trace),
  assess: (trace: string, assessment: object) => post(`${V3}/traces/${encodeURIComponent(trace)}/assessments`, { assessment }),
  /** Any other change: a path below `/api/2.0/mlflow`. */
  change: (method: "POST" | "PATCH" | "DELETE", path: string, body: unknown) => change<unknown>(method, `${V2}/${path}`, body),
};

export function tag(tags: Tag[] | undefined, key: string): string {
  return tags?.find((t) => t.key === key)?.value ?? "";
}

/** Tags that people set; those of `mlflow.` are the client's. */
export const ownTags = (tags: Tag[] | undefined) => (tags ?? []).filter((t) => !t.key.startsWith("mlflow."));

export const PARENT = "mlflow.parentRunId";
export const NOTE = "mlflow.note.content";

export const runName = (run: Run) => run.info.run_name || run.info.run_id.slice(0, 8);

/** Seconds a run took, or takes so far. */
export function seconds(info: RunInfo): number | null {
  if (!info.start_time) return null;
  const end = info.end_time ?? (info.status === "RUNNING" ? Date.now() : 0);
  return end ? Math.max(0, end - info.start_time) / 1000 : null;
}

export function statusTone(status: string): "plain" | "good" | "warn" | "bad" | "accent" {
  if (status === "FINISHED" || status === "OK" || status === "READY") return "good";
  if (status === "FAILED" || status === "ERROR" || status === "FAILED_REGISTRATION") return "bad";
  return status === "RUNNING" || status === "IN_PROGRESS" ? "accent" : "warn";
}

/** FINISHED → finished */
export const word = (state: string) => state.toLowerCase().replaceAll("_", " ");

export function asNumber(x: Double | undefined | null): number | null {
  if (x === undefined || x === null) return null;
  if (typeof x === "number") return x;
  return x === "Infinity" ? Infinity : x === "-Infinity" ? -Infinity : NaN;
}

/** MLflow's stores keep infinity as the largest number there is. */
const LARGEST = 1.7976931348623157e308;

export function finite(x: Double | undefined | null): number | null {
  const n = asNumber(x);
  return n === null || !Number.isFinite(n) || Math.abs(n) >= LARGEST ? null : n;
}

export function metricText(x: Double | undefined | null): string {
  const n = asNumber(x);
  if (n === null) return NONE;
  if (Number.isNaN(n)) return "NaN";
  if (Math.abs(n) >= LARGEST) return n > 0 ? "∞" : "−∞";
  return number(n, 5);
}

/** Items by a name that each has, in the order in which the names come first. */
export function grouped<T>(items: T[], name: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(name(item));
    if (group) group.push(item);
    else groups.set(name(item), [item]);
  }
  return groups;
}

/** A text of a filter: quotes within it are doubled. */
export const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;

/** Where the server has a run's or a model's artifact; null where its files are elsewhere. */
export function artifactPath(root: string | undefined, path: string): string | null {
  const scheme = "mlflow-artifacts:/";
  if (!root?.startsWith(scheme)) return null;
  const base = root
    .slice(scheme.length)
    .replace(/^\/[^/]*\//, "")
    .replace(/^\/+/, "");
  const parts = [...base.split("/"), ...path.split("/")].filter(Boolean).map(encodeURIComponent);
  return `/api/2.0/mlflow-artifacts/artifacts/${parts.join("/")}`;
}

/** The first bytes of a file, and whether there are more. */
export async function beginning(path: string, most: number, signal: AbortSignal): Promise<{ bytes: Uint8Array; whole: boolean }> {
  const response = await request(path, { signal });
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  let size = 0;
  while (reader && size < most) {
    const { done, value } = await reader.read();
    if (done) return { bytes: joined(parts, size), whole: true };
    parts.push(value);
    size += value.length;
  }
  void reader?.cancel();
  return { bytes: joined(parts, size).subarray(0, most), whole: false };
}

function joined(parts: Uint8Array[], size: number): Uint8Array {
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A file to the reader's disk. Only with a key does it pass through memory: a link sends none. */
export async function download(path: string, name: string): Promise<void> {
  if (auth.key) return save(name, await (await request(path)).blob());
  const link = document.createElement("a");
  link.href = withQuery(path);
  link.download = name;
  link.click();
}

/** An OpenTelemetry value as JSON has it. */
export function plain(value: AnyValue | undefined): unknown {
  if (!value) return null;
  if (value.string_value !== undefined) return value.string_value;
  if (value.bool_value !== undefined) return value.bool_value;
  if (value.int_value !== undefined) return Number(value.int_value);
  if (value.double_value !== undefined) return value.double_value;
  if (value.array_value) return (value.array_value.values ?? []).map(plain);
  if (value.kvlist_value) return Object.fromEntries((value.kvlist_value.values ?? []).map((kv) => [kv.key, plain(kv.value)]));
  return value.bytes_value ?? null;
}

/** "0.062s" → 0.062 */
export const duration = (text: string | undefined) => (text ? Number.parseFloat(text) : null);

export function tokens(info: TraceInfo): number | null {
  try {
    const usage = JSON.parse(info.trace_metadata?.["mlflow.trace.tokenUsage"] ?? "null") as { total_tokens?: number } | null;
    return usage?.total_tokens ?? null;
  } catch {
    return null;
  }
}

/** What an assessment says. */
export function verdict(a: Assessment): string {
  if (a.feedback?.error) return a.feedback.error.error_message ?? a.feedback.error.error_code ?? "error";
  const x = a.feedback ? a.feedback.value : (a.expectation?.value ?? a.expectation?.serialized_value?.value);
  if (typeof x === "boolean") return x ? "yes" : "no";
  if (typeof x === "number") return number(x);
  return typeof x === "string" ? x : JSON.stringify(x ?? null);
}
