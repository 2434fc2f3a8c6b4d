/** Where the reader is. Every state of a page that is worth a link is in the path or the query. */

import { withQuery, type Query } from "./api";

export const BASE = "/ui";

class Place {
  #path = $state(location.pathname);
  #search = $state(location.search);
  #query = $derived(new URLSearchParams(this.#search));

  constructor() {
    addEventListener("popstate", () => this.#read());
    document.addEventListener("click", (event) => this.#follow(event));
  }

  /** Segments behind the base, decoded: `["decisions", "loan-17"]`; none on the first page. */
  get segments(): string[] {
    const path = this.#path === BASE || this.#path.startsWith(`${BASE}/`) ? this.#path.slice(BASE.length) : this.#path;
    return path.split("/").filter(Boolean).map(decode);
  }

  get query(): URLSearchParams {
    return this.#query;
  }

  /** A value of the query, "" when it is not there. */
  param(name: string): string {
    return this.#query.get(name) ?? "";
  }

  go(to: string): void {
    history.pushState(null, "", to);
    this.#read();
    scrollTo(0, 0);
  }

  /** Changes some values of the query; empty ones go. A new entry of the history only where going back should undo it. */
  set(changes: Query, remember = false): void {
    const all: Query = { ...Object.fromEntries(this.#query), ...changes };
    const to = withQuery(this.#path, all);
    if (to === this.#path + this.#search) return;
    if (remember) history.pushState(null, "", to);
    else history.replaceState(null, "", to);
    this.#read();
  }

  #read(): void {
    this.#path = location.pathname;
    this.#search = location.search;
  }

  /** Plain clicks on links of the dashboard stay in it. */
  #follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.pathname !== BASE && !link.pathname.startsWith(`${BASE}/`)) return;
    if (link.hash && link.pathname === location.pathname && link.search === location.search) return;
    event.preventDefault();
    this.go(link.pathname + link.search);
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A link within the dashboard: `href(["decisions", id])`. */
export function href(segments: string[], query: Query = {}): string {
  return withQuery([BASE, ...segments.map(encodeURIComponent)].join("/"), query);
}

export const place = new Place();
