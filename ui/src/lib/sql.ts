/** Questions in SQL, as the server answers them. */

import { ApiError, get, post, request } from "./api";

export interface SqlColumn {
  name: string;
  /** PostgreSQL's name: `text`, `int8`, `float8`, `bool`, `timestamptz`. */
  type: string;
}

export interface SqlTable {
  schema: string;
  name: string;
  comment: string | null;
  columns: (SqlColumn & { comment: string | null })[];
}

export type SqlCell = string | number | boolean | null;

export interface SqlAnswer {
  columns: SqlColumn[];
  rows: SqlCell[][];
  /** There are more rows than were asked for. */
  truncated: boolean;
  seconds: number;
}

export const sqlTables = (signal: AbortSignal) => get<{ tables: SqlTable[] }>("/v1/sql/tables", {}, signal);

export const ask = (query: string, limit: number, signal: AbortSignal) => post<SqlAnswer>("/v1/sql", { query, limit }, signal);

/** What a whole answer is saved as. */
export const FORMATS = {
  csv: { name: "CSV", accept: "text/csv", end: "csv" },
  json: { name: "JSON lines", accept: "application/x-ndjson", end: "ndjson" },
  arrow: { name: "Arrow", accept: "application/vnd.apache.arrow.stream", end: "arrows" },
} as const;

/** All rows, as they stream in; `told` hears how many bytes there are by now. */
export async function wholeAnswer(
  query: string,
  format: keyof typeof FORMATS,
  signal: AbortSignal,
  told: (bytes: number) => void,
): Promise<Blob> {
  const { accept } = FORMATS[format];
  const headers = { accept, "content-type": "application/json" };
  const response = await request("/v1/sql", { method: "POST", headers, body: JSON.stringify({ query }), signal });
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let bytes = 0;
  const reader = response.body?.getReader();
  try {
    for (;;) {
      const part = await reader?.read();
      if (!part || part.done) return new Blob(chunks, { type: accept });
      chunks.push(part.value);
      told((bytes += part.value.length));
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError(0, "broken_off", "the answer broke off before its end", "Nothing was saved. The server's log says why.");
  }
}

/** Where a refusal points to in its question, counted from 0. Without a place of its own: where the name is that it is about. */
export function placeOf(error: ApiError, question: string): number | undefined {
  const position = error.about["position"];
  if (typeof position === "number" && position > 0) return position - 1;
  const name = /["'`](?:[^"'`]*\.)?(\w+)["'`]/.exec(error.message)?.[1];
  const at = name ? question.toLowerCase().search(new RegExp(`\\b${name.toLowerCase()}\\b`)) : -1;
  return at < 0 ? undefined : at;
}

const NUMBERS = new Set(["int2", "int4", "int8", "float4", "float8", "numeric"]);
const TIMES = new Set(["timestamptz", "timestamp", "date"]);

export const isNumber = (column: SqlColumn | undefined) => !!column && NUMBERS.has(column.type);
export const isTime = (column: SqlColumn | undefined) => !!column && TIMES.has(column.type);

/** A cell as a number, where it is a finite one; times are milliseconds since 1970. */
export function numeric(column: SqlColumn | undefined, cell: SqlCell | undefined): number | null {
  if (cell == null || !column) return null;
  const value = isTime(column) ? Date.parse(String(cell)) : isNumber(column) ? Number(cell) : Number.NaN;
  return Number.isFinite(value) ? value : null;
}

const PLAIN = /^[a-z_][a-z0-9_]*$/;
/** Words that name a column only between quotation marks, as far as tables of ours are likely to use them. */
const RESERVED = new Set(
  "all and any array as asc between both case cast check column constraint create cross current_date current_time default desc distinct do else end except false fetch for foreign from full grant group having in inner intersect into is join leading left like limit natural not null offset on only or order outer primary references right select some table then to trailing true union unique user using when where window with".split(
    " ",
  ),
);

/** A name as a question writes it. */
export const quoted = (name: string) => (PLAIN.test(name) && !RESERVED.has(name) ? name : `"${name.replaceAll('"', '""')}"`);

export const tableName = (table: SqlTable) =>
  table.schema === "public" ? quoted(table.name) : `${quoted(table.schema)}.${quoted(table.name)}`;
