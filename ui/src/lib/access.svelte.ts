/** Who the reader is to the server, so that what the role may not is not offered. The server checks each request all the same. */

import { getIfServed } from "./api";
import { auth } from "./auth.svelte";

export type Role = "none" | "read" | "write" | "manage";

export interface Key {
  name: string;
  role: Role;
  models: Record<string, Role>;
  experiments: Record<string, Role>;
  /** What it sees in SQL; null: what its roles open. */
  grants: string[] | null;
  created: string;
  expires: string | null;
}

export interface Caller {
  /** Whether the server wants keys at all. */
  wanted: boolean;
  key: string | null;
  role: Role;
  models: Record<string, Role>;
  experiments: Record<string, Role>;
  grants: string[] | null;
  /** Those of the server; null without the role `manage`. */
  keys: Key[] | null;
}

const ORDER: Role[] = ["none", "read", "write", "manage"];

class Access {
  caller = $state.raw<Caller>();

  constructor() {
    $effect.root(() => {
      $effect(() => {
        void auth.turn;
        if (auth.wanted) return;
        getIfServed<Caller>("/v1/access").then(
          (caller) => (this.caller = caller ?? undefined),
          () => (this.caller = undefined),
        );
      });
    });
  }

  /** Whether the role is enough, for one model where its name is given. Where the server does not say, it is tried. */
  may(role: Role, model?: string): boolean {
    const caller = this.caller;
    if (!caller?.wanted) return true;
    const own = (model !== undefined && caller.models[model]) || caller.role;
    return ORDER.indexOf(own) >= ORDER.indexOf(role);
  }
}

export const access = new Access();
