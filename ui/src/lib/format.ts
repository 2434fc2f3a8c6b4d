/** Numbers, times and spans as people read them. What is not defined is a dash. */

import { settings } from "./settings.svelte";

export const NONE = "–";

const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 12,345 */
export function count(value: number | null | undefined): string {
  return value == null ? NONE : integers.format(value);
}

/** 12.3K */
export function compact(value: number | null | undefined): string {
  return value == null ? NONE : Math.abs(value) < 10_000 ? integers.format(value) : short.format(value);
}

/** A measure with as many digits as help: 0.7812, 12.3, 4,811. */
export function number(value: number | null | undefined, digits = 4): string {
  if (value == null || Number.isNaN(value)) return NONE;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return integers.format(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(2);
  return new Intl.NumberFormat("en", { maximumSignificantDigits: Math.max(digits, 1) }).format(value);
}

/** A number with a fixed number of decimals, so that a column lines up. */
export function fixed(value: number | null | undefined, decimals = 3): string {
  return value == null || !Number.isFinite(value)
    ? NONE
    : value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

export function signed(value: number, decimals = 3): string {
  return `${value < 0 ? "−" : "+"}${fixed(Math.abs(value), decimals)}`;
}

export function percent(share: number | null | undefined, decimals = 1): string {
  return share == null || !Number.isFinite(share) ? NONE : `${fixed(share * 100, decimals)} %`;
}

export function rate(perSecond: number | null | undefined): string {
  if (perSecond == null) return NONE;
  return perSecond >= 10 || perSecond === 0 ? integers.format(perSecond) : fixed(perSecond, 1);
}

/** 87 µs, 1.53 ms, 2.1 s */
export function micros(us: number | null | undefined): string {
  if (us == null) return NONE;
  if (us < 1000) return `${us < 10 ? number(us, 2) : integers.format(us)} µs`;
  if (us < 1_000_000) return `${number(us / 1000, 3)} ms`;
  return `${number(us / 1_000_000, 3)} s`;
}

/** 12 s, 4 min, 3 h 20 min, 5 d */
export function span(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  const s = Math.abs(seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s < 10 ? number(s, 2) : Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) {
    const minutes = Math.floor((s % 3600) / 60);
    return minutes ? `${Math.floor(s / 3600)} h ${minutes} min` : `${Math.floor(s / 3600)} h`;
  }
  const hours = Math.floor((s % 86_400) / 3600);
  return s < 10 * 86_400 && hours ? `${Math.floor(s / 86_400)} d ${hours} h` : `${integers.format(Math.floor(s / 86_400))} d`;
}

export function bytes(size: number | null | undefined): string {
  if (size == null) return NONE;
  if (size < 1000) return `${size} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = size;
  let unit = -1;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${number(value, 3)} ${units[unit]}`;
}

const pad = (value: number, width = 2) => String(value).padStart(width, "0");

/** The name of the zone that times are shown in. */
export function zone(): string {
  return settings.zone === "utc" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** 2025-04-29 08:13:47, in the reader's zone; `zone()` belongs at the head of its column. */
export function moment(
  time: string | number | null | undefined,
  parts: "date" | "minute" | "second" | "milli" = "second",
): string {
  if (time == null || time === "") return NONE;
  const t = new Date(time);
  if (Number.isNaN(t.getTime())) return String(time);
  const utc = settings.zone === "utc";
  const [year, month, day] = utc
    ? [t.getUTCFullYear(), t.getUTCMonth(), t.getUTCDate()]
    : [t.getFullYear(), t.getMonth(), t.getDate()];
  const date = `${year}-${pad(month + 1)}-${pad(day)}`;
  if (parts === "date") return date;
  const [h, m, s] = utc
    ? [t.getUTCHours(), t.getUTCMinutes(), t.getUTCSeconds()]
    : [t.getHours(), t.getMinutes(), t.getSeconds()];
  const clock = `${date} ${pad(h)}:${pad(m)}`;
  if (parts === "minute") return clock;
  return parts === "second" ? `${clock}:${pad(s)}` : `${clock}:${pad(s)}.${pad(t.getUTCMilliseconds(), 3)}`;
}

/** What a `datetime-local` field holds, which knows no zones: read in the reader's zone. RFC 3339, or "" for what is no time. */
export function fromField(text: string): string {
  if (!text) return "";
  const time = new Date(settings.zone === "utc" ? `${text}Z` : text);
  return Number.isNaN(time.getTime()) ? "" : time.toISOString();
}

/** The other way. */
export function toField(time: string): string {
  return time ? moment(time, "second").replace(" ", "T") : "";
}

/** A value of a row or an event. */
export function value(x: unknown): string {
  if (x === null || x === undefined) return NONE;
  if (typeof x === "number") return number(x, 6);
  if (typeof x === "string") return x;
  return typeof x === "boolean" ? (x ? "yes" : "no") : JSON.stringify(x);
}

/** The first digits of a hash. */
export function hash(text: string | null | undefined): string {
  return text ? text.slice(0, 10) : NONE;
}
