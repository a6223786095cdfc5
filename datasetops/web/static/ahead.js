// The next items, fetched before they are asked for, with their images.
import { api, get, getPage, media, path, version } from "./api.js";

const DEPTH = 2;
const OLD = 60_000; // milliseconds after which the hold of what was fetched ahead is asked for again
const MOST = 50; // items in a row that others hold or have decided, before it is said that nothing is left

const tail = (query) => (query ? `?${query}` : "");

export async function openPage(id, query) {
  const html = await getPage(`/v/${encodeURIComponent(version)}/review/${encodeURIComponent(id)}${tail(query)}`);
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const item = JSON.parse(parsed.getElementById("data").textContent);
  const image = new Image();
  if (item.sample?.sample_id) {
    image.src = `${media}/full/${path(item.sample.sample_id)}`;
    image.decode?.().catch(() => {});
  }
  for (const thumb of parsed.querySelectorAll("#panel img")) new Image().src = thumb.getAttribute("src");
  return { id, data: item, image, panel: document.adoptNode(parsed.getElementById("panel")), title: parsed.title, at: Date.now() };
}

export class Ahead {
  #query;
  #chain = []; // promises of pages, each the one after the one before
  #passed = new Set(); // decided here, by others meanwhile, or held by others

  constructor(query) {
    this.#query = query;
  }
  skip(id) {
    this.#passed.add(id);
  }
  unskip(ids) {
    for (const id of ids) this.#passed.delete(id);
    this.reset();
  }
  decided(ids) {
    for (const id of ids) this.#passed.add(id);
  }
  reset() {
    this.#chain = [];
  }
  // Once more from the start of the queue.
  restart() {
    this.#passed.clear();
    this.#chain = [this.#load(null)];
  }
  after(id) {
    while (this.#chain.length < DEPTH) {
      const before = this.#chain.at(-1) || Promise.resolve({ id });
      const made = before.then((page) => page && this.#load(page.id));
      made.catch(() => {}); // told when it is taken
      this.#chain.push(made);
    }
  }
  async take(id) {
    for (;;) {
      if (!this.#chain.length) this.after(id);
      let page;
      try {
        page = await this.#chain.shift();
      } catch (error) {
        this.reset();
        throw error;
      }
      if (!page) {
        this.reset();
        return null;
      }
      if (this.#passed.has(page.id) || page.id === id) continue;
      if (Date.now() - page.at > OLD && (await this.#heldByOther(page.id))) continue;
      return page;
    }
  }
  async #heldByOther(id) {
    try {
      return (await get(`${api}/findings/${encodeURIComponent(id)}${tail(this.#query)}`)).held_by;
    } catch {
      return null;
    }
  }
  async #load(after) {
    for (let i = 0; i < MOST; i++) {
      const parameters = new URLSearchParams(this.#query);
      if (after) parameters.set("after", after);
      const { finding_id: id } = await get(`${api}/next?${parameters}`);
      if (!id) return null;
      after = id;
      if (this.#passed.has(id)) continue;
      const page = await openPage(id, this.#query);
      if (!page.data.held_by) return page;
    }
    return null;
  }
  async renew(id) {
    const ids = [id];
    for (const page of await Promise.allSettled(this.#chain)) if (page.value) ids.unshift(page.value.id);
    for (const one of ids) await this.#heldByOther(one);
  }
}
