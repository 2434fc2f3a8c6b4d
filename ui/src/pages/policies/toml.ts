/** The policy of a decision in the text of kilter.toml: found and replaced, with everything around it left as it is. */

import type { PolicyRule } from "../../lib/types";

/** From where to where the array behind `policy =` reaches; null where the text writes it otherwise. */
function span(text: string, decision: string): [number, number] | null {
  const name = decision.replace(/[^\w-]/g, (c) => `\\${c}`);
  const head = new RegExp(`^[ \\t]*\\[[ \\t]*decision[ \\t]*\\.[ \\t]*(?:${name}|"${name}")[ \\t]*\\][ \\t]*(?:#.*)?$`, "m").exec(
    text,
  );
  if (!head) return null;
  const from = head.index + head[0].length;
  const next = /^[ \t]*\[/m.exec(
    text
      .slice(from)
      .replace(/"(?:[^"\\\n]|\\.)*"|'[^'\n]*'/g, (s) => " ".repeat(s.length))
      .replace(/\[(?=\s*\{)/g, " "),
  );
  const section = text.slice(from, next ? from + next.index : undefined);
  const key = /^[ \t]*policy[ \t]*=[ \t]*/m.exec(section);
  if (!key) return null;
  const start = from + key.index + key[0].length;
  if (text[start] !== "[") return null;
  let depth = 0;
  for (let i = start; i < text.length; i += 1) {
    const c = text[i];
    if (c === '"' || c === "'") {
      i += 1;
      while (i < text.length && text[i] !== c) i += c === '"' && text[i] === "\\" ? 2 : 1;
    } else if (c === "#") {
      while (i + 1 < text.length && text[i + 1] !== "\n") i += 1;
    } else if (c === "[") depth += 1;
    else if (c === "]") {
      depth -= 1;
      if (depth === 0) return [start, i + 1];
    }
  }
  return null;
}

export function canReplace(text: string, decision: string): boolean {
  return span(text, decision) !== null;
}

/** A text of TOML that means what a text of JSON does: their escapes agree. */
const quoted = (text: string) => JSON.stringify(text);

export function replaced(text: string, decision: string, rules: PolicyRule[]): string {
  const at = span(text, decision);
  if (!at) return text;
  const lines = rules.map((rule) => {
    const when = rule.when?.trim() ? `when = ${quoted(rule.when.trim())}, ` : "";
    return `    { ${when}outcome = ${quoted(rule.outcome.trim())} },\n`;
  });
  return `${text.slice(0, at[0])}[\n${lines.join("")}]${text.slice(at[1])}`;
}
