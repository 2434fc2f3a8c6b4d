/** The key of this tab. It stays in the session storage: closing the tab forgets it. */

const STORED = "kilter.key";

class Auth {
  key = $state(sessionStorage.getItem(STORED) ?? "");
  /** The server has refused a request for want of a key. */
  wanted = $state(false);
  /** Goes up with each new key, so that what failed is asked again. */
  turn = $state(0);

  use(key: string): void {
    sessionStorage.setItem(STORED, key);
    this.key = key;
    this.wanted = false;
    this.turn += 1;
  }

  forget(): void {
    sessionStorage.removeItem(STORED);
    this.key = "";
    this.wanted = true;
  }
}

export const auth = new Auth();
