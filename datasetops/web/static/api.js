// Requests to the server, and the outbox: what the server has not taken yet is kept in this browser and sent again.

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content || "";
export const actor = meta("actor");
export const version = meta("version");
export const api = `/api/v/${encodeURIComponent(version)}`;
export const media = `/media/${encodeURIComponent(version)}`;
// Sample ids may hold slashes, which stay.
export const path = (id) => id.split("/").map(encodeURIComponent).join("/");
let csrf = meta("csrf");

export class Refusal extends Error {
  constructor(status, words, answer) {
    super(words);
    this.status = status; // 0: the server did not answer
    this.answer = answer;
  }
  get passing() {
    return this.status === 0 || this.status === 401 || this.status === 403 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

async function request(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer.");
  }
  if (options.text) {
    if (!response.ok) throw new Refusal(response.status, `The server answered ${response.status}.`);
    return response.text();
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // told by the status
  }
  if (response.ok && answer !== null) return answer;
  const words = [answer?.error, answer?.remedy].filter(Boolean).join(" ") || `The server answered ${response.status}.`;
  throw new Refusal(response.ok ? 502 : response.status, words, answer);
}

export const get = (address, options = {}) => request(address, { headers: { accept: "application/json" }, ...options });
export const getPage = (address, options = {}) => request(address, { headers: { accept: "text/html" }, text: true, ...options });

export async function post(address, body) {
  const send = () =>
    request(address, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json", "x-csrf": csrf },
      body: JSON.stringify(body),
    });
  try {
    return await send();
  } catch (error) {
    if (error.status !== 403) throw error;
    const page = new DOMParser().parseFromString(await getPage(location.href), "text/html");
    const fresh = page.querySelector('meta[name="csrf"]')?.content; // a restarted server may have another
    if (!fresh || fresh === csrf) throw error;
    csrf = fresh;
    return send();
  }
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const PREFIX = "dsops.outbox.";

class Kept {
  #memory = new Map(); // where the browser lets nothing be kept
  keys() {
    const found = [...this.#memory.keys()];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const name = localStorage.key(i);
        if (name.startsWith(PREFIX)) found.push(name);
      }
    } catch {
      // nothing kept
    }
    return found.sort();
  }
  get(name) {
    if (this.#memory.has(name)) return this.#memory.get(name);
    try {
      return JSON.parse(localStorage.getItem(name));
    } catch {
      return null;
    }
  }
  set(name, value) {
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      this.#memory.set(name, value);
    }
  }
  remove(name) {
    this.#memory.delete(name);
    try {
      localStorage.removeItem(name);
    } catch {
      // nothing kept
    }
  }
}

// Sends one thing after the other, in the order in which they were put in. Events: "taken" and "refused" with
// {address, body, answer, words}; "waiting" with {count, words}.
export class Outbox extends EventTarget {
  #kept = new Kept();
  #running = false;
  #sending = null;
  #pause = 0;
  #timer = 0;
  #last = 0;

  constructor() {
    super();
    addEventListener("online", () => this.#pump());
    addEventListener("storage", (event) => event.key?.startsWith(PREFIX) && this.#tell());
    setTimeout(() => this.#pump(), 0);
  }
  #mine() {
    return this.#kept.keys().filter((name) => this.#kept.get(name)?.actor === actor);
  }
  get count() {
    return this.#mine().length;
  }
  put(address, body) {
    this.#last = Math.max(Date.now(), this.#last + 1);
    const name = `${PREFIX}${String(this.#last).padStart(15, "0")}.${body.decision_id || newId()}`;
    this.#kept.set(name, { actor, address, body });
    this.#pump();
    return name;
  }
  // Takes something back that was not sent yet; false when it is on its way or taken.
  drop(name) {
    if (this.#sending === name || !this.#kept.get(name)) return false;
    this.#kept.remove(name);
    this.#tell();
    return true;
  }
  async #pump() {
    if (this.#running) return;
    this.#running = true;
    clearTimeout(this.#timer);
    try {
      const work = () => this.#sendAll();
      if (navigator.locks) await navigator.locks.request("dsops.outbox", work); // one tab sends
      else await work();
    } finally {
      this.#running = false;
    }
  }
  async #sendAll() {
    for (let names = this.#mine(); names.length; names = this.#mine()) {
      const name = names[0];
      const entry = this.#kept.get(name);
      if (!entry) continue;
      this.#sending = name;
      try {
        const answer = await post(entry.address, entry.body);
        this.#kept.remove(name);
        this.#pause = 0;
        this.#emit("taken", { ...entry, name, answer });
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        if (error.passing) {
          this.#pause = Math.min(5, Math.max(0.5, this.#pause * 2));
          this.#timer = setTimeout(() => this.#pump(), this.#pause * 1000);
          this.#tell(error);
          return;
        }
        this.#kept.remove(name);
        this.#emit("refused", { ...entry, name, answer: error.answer, words: error.message });
      } finally {
        this.#sending = null;
      }
    }
    this.#tell();
  }
  #tell(error = null) {
    this.#emit("waiting", { count: this.count, error });
  }
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// A bar that says what is not taken yet.
export function showWaiting(outbox) {
  const bar = document.getElementById("outbox");
  outbox.addEventListener("waiting", ({ detail }) => {
    const { count, error } = detail;
    bar.hidden = !(count && error);
    if (bar.hidden) return;
    const what = `${count} ${count === 1 ? "decision is" : "decisions are"} kept in this browser and sent again until the server takes ${count === 1 ? "it" : "them"}.`;
    const why = error.message;
    bar.textContent = `${why} ${what}`;
  });
}
