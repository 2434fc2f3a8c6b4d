/** What a reader has chosen on this machine: light or dark, and in which time zone times are shown. */

export type Theme = "system" | "light" | "dark";
export type Zone = "utc" | "local";

function stored<T extends string>(name: string, allowed: readonly T[], otherwise: T): T {
  const value = localStorage.getItem(name) as T | null;
  return value && allowed.includes(value) ? value : otherwise;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

class Settings {
  #theme = $state<Theme>(stored("kilter.theme", ["system", "light", "dark"], "system"));
  #zone = $state<Zone>(stored("kilter.zone", ["utc", "local"], "utc"));
  #systemIsDark = $state(dark.matches);

  constructor() {
    dark.addEventListener("change", () => (this.#systemIsDark = dark.matches));
    this.#show();
  }

  get theme(): Theme {
    return this.#theme;
  }

  set theme(theme: Theme) {
    this.#theme = theme;
    localStorage.setItem("kilter.theme", theme);
    this.#show();
  }

  get zone(): Zone {
    return this.#zone;
  }

  set zone(zone: Zone) {
    this.#zone = zone;
    localStorage.setItem("kilter.zone", zone);
  }

  /** Charts on a canvas ask this: they cannot read the style sheet's variables by themselves. */
  get isDark(): boolean {
    return this.#theme === "system" ? this.#systemIsDark : this.#theme === "dark";
  }

  #show(): void {
    if (this.#theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = this.#theme;
  }
}

export const settings = new Settings();
