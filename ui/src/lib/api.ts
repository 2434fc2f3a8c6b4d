/** The server's REST API: the only thing the dashboard knows of it, so whatever it shows a script can get too. */

import { auth } from "./auth.svelte";

/** A refusal as the server words it, or a connection that failed (`status` 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string | null,
    /** What is wrong with single fields, each in a sentence. */
    readonly details: string[] = [],
    /** The refusal as it came: single routes say more in it. */
    readonly about: Record<string, unknown> = {},
  ) {
    super(message);
  }

  /** This server has no such route: an older one, or one without that part. */
  get isMissingRoute(): boolean {
    return this.status === 404 && (this.code === "unknown_route" || this.code === "ENDPOINT_NOT_FOUND");
  }
}

export type Query = Record<string, string | number | boolean | null | undefined>;

/** A path with its query; what is empty is left out. */
export function withQuery(path: string, query: Query = {}): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") params.set(name, String(value));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

async function refusal(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  try {
    const body = JSON.parse(text);
    // The project's own routes answer `error`, MLflow's `error_code` and `message`.
    const error = body.error ?? { code: body.error_code, message: body.message };
    const [message, ...hints] = String(error.message ?? response.statusText).split("\n  hint: ");
    const fields: { message: string; hint?: string }[] = Array.isArray(error.fields) ? error.fields : [];
    const details = fields.map((field) => (field.hint ? `${field.message} (${field.hint})` : field.message));
    return new ApiError(response.status, String(error.code ?? ""), message ?? "", error.hint ?? hints[0] ?? null, details, error);
  } catch {
    return new ApiError(response.status, "", text || response.statusText || `status ${response.status}`, null);
  }
}

/** A request with the key, if there is one. A 401 asks for a key. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (auth.key) headers.set("authorization", `Bearer ${auth.key}`);
  let response: Response;
  try {
    // Without credentials no browser opens its own dialogue for a password.
    response = await fetch(path, { ...init, headers, credentials: "omit" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(
      0,
      "unreachable",
      "the server does not answer",
      "Is `kilter up` running? This page tries again when you ask it to.",
    );
  }
  if (response.ok) return response;
  const error = await refusal(response);
  if (error.status === 401) auth.wanted = true;
  throw error;
}

export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const response = await request(withQuery(path, query), signal ? { signal } : {});
  return (await response.json()) as T;
}

/** As `get`; null where this server has no such route. */
export async function getIfServed<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T | null> {
  try {
    return await get<T>(path, query, signal);
  } catch (error) {
    if (error instanceof ApiError && error.isMissingRoute) return null;
    throw error;
  }
}

export const post = <T>(path: string, body?: unknown, signal?: AbortSignal) => send<T>("POST", path, body, signal);
export const put = <T>(path: string, body?: unknown, signal?: AbortSignal) => send<T>("PUT", path, body, signal);

async function send<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.headers = { "content-type": "application/json" };
    init.body = JSON.stringify(body);
  }
  if (signal) init.signal = signal;
  const response = await request(path, init);
  const text = await response.text();
  return (text ? JSON.parse(text) : null) as T;
}
