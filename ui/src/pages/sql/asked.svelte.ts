/** What was asked in this tab, and the draft: they go when the tab is closed, as the key does. */

export interface Asked {
  question: string;
  at: number;
  rows: number | null;
}

const ASKED = "kilter.sql.asked";
const DRAFT = "kilter.sql.draft";
const MOST = 50;

function stored(): Asked[] {
  try {
    const list: unknown = JSON.parse(sessionStorage.getItem(ASKED) ?? "[]");
    return Array.isArray(list) ? (list as Asked[]) : [];
  } catch {
    return [];
  }
}

class History {
  list = $state.raw<Asked[]>(stored());

  /** A question that is asked again moves to the top. */
  add(entry: Asked): void {
    this.list = [entry, ...this.list.filter((other) => other.question !== entry.question)].slice(0, MOST);
    keep(ASKED, JSON.stringify(this.list));
  }

  forget(): void {
    this.list = [];
    sessionStorage.removeItem(ASKED);
  }
}

/** A store that is full keeps what it has. */
function keep(name: string, text: string): void {
  try {
    sessionStorage.setItem(name, text);
  } catch {
    // What the reader does goes on without.
  }
}

export const asked = new History();
export const draft = () => sessionStorage.getItem(DRAFT) ?? "";
export const keepDraft = (text: string) => keep(DRAFT, text);
