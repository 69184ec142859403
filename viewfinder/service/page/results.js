// The results: pages of hits, and notes about them.

import { ask, ServiceError } from "./api.js";
import { byId, el, plural } from "./dom.js";
import { Grid } from "./grid.js";
import { explain } from "./problem.js";
import { address, hasContent, isStart, key, minimum, order, parse, request } from "./query.js";
import { chooseImage, uploads } from "./uploads.js";

const REMEMBERED = 8; // results kept for the back button
const AHEAD = 900; // pixels below the screen at which the next page is fetched

export class Results {
  /** `on` has `begin(signal)` before the first search, `arrived()` after each page, `go(changes)`. */
  constructor(on) {
    this.on = on;
    this.key = null;
    this.hits = [];
    this.cursor = null;
    this.remembered = new Map();
    this.grid = new Grid(byId("results"), (id) => address({ ...this.query, open: id }));
    this.end = byId("end");
    this.end.lastElementChild.onclick = () => this.more();
    const near = ([entry]) => entry.isIntersecting && this.more();
    new IntersectionObserver(near, { rootMargin: `${AHEAD}px` }).observe(this.end);
  }

  /** Show the first page of `query`, after `notice`; a running search is aborted. */
  async search(query, notice) {
    const mine = this.#begin(query);
    if (notice) this.say(notice);
    if (this.grid.hits.length) this.grid.list.setAttribute("aria-busy", "true"); // dimmed until the new results arrive
    else this.grid.wait();
    byId("status").textContent = isStart(query) ? "" : "Searching …";
    try {
      const lost = query.image && !uploads.has(query.image);
      if (lost && !hasContent({ ...query, image: "" })) return this.#lacksImage(query.image);
      await this.on.begin(mine.signal);
      const [path, body] = await request(query, uploads.get(query.image));
      const answer = await ask(path, { body, signal: mine.signal });
      if (mine !== this.searching) return;
      this.cursor = isStart(query) ? null : (answer.cursor ?? null);
      this.tookMs = answer.took_ms;
      if (hasContent(query)) this.notes.push(...answer.warnings);
      if (lost) this.notes.push(`“${query.image}” is not available in this tab and was ignored.`);
      this.grid.clear();
      scrollTo(0, 0);
      this.#add(answer.hits);
    } catch (error) {
      if (mine === this.searching) this.#fail(error);
    } finally {
      if (mine === this.searching) this.grid.list.removeAttribute("aria-busy");
    }
  }

  /** A note above the results, for as long as they are shown. */
  say(note) {
    this.notes.push(note);
    this.#notes();
  }

  /** Keep the results for the back button. */
  remember() {
    if (!this.hits.length) return;
    const { key, hits, cursor, notes, tookMs } = this;
    this.remembered.delete(key);
    this.remembered.set(key, { hits, cursor, notes, tookMs, scroll: scrollY });
    if (this.remembered.size > REMEMBERED) this.remembered.delete(this.remembered.keys().next().value);
  }

  /** Show the remembered results of `query` at their scroll position; false if there are none. */
  restore(query) {
    const known = this.remembered.get(key(query));
    if (!known) return false;
    this.#begin(query);
    this.grid.list.removeAttribute("aria-busy");
    this.grid.clear();
    const { hits, scroll, ...rest } = known;
    Object.assign(this, rest);
    this.#add(hits);
    scrollTo(0, scroll);
    return true;
  }

  /** Load the next page, if there is one. */
  more() {
    if (!this.cursor) return null;
    this.coming ??= this.#next().finally(() => (this.coming = null));
    return this.coming;
  }

  #begin(query) {
    this.searching?.abort();
    this.searching = new AbortController();
    Object.assign(this, { query, key: key(query), hits: [], notes: [], cursor: null, coming: null });
    this.#panel();
    this.#notes();
    this.#end("");
    return this.searching;
  }

  async #next() {
    const mine = this.searching;
    this.#end("Loading more …");
    try {
      const [path, body] = await request(this.query, uploads.get(this.query.image), this.cursor);
      const answer = await ask(path, { body, signal: mine.signal });
      if (mine !== this.searching) return;
      this.cursor = answer.cursor ?? null;
      this.#add(answer.hits);
    } catch (error) {
      if (mine !== this.searching || error.name === "AbortError") return;
      if (error.status !== 410) return this.#end(`${error.message} `, { again: true });
      this.search(this.query, "The index was rebuilt: the results start again from the best.");
    }
  }

  #add(hits) {
    this.hits.push(...hits);
    this.grid.append(hits, { graded: hasContent(this.query) });
    this.#describe();
    this.on.arrived();
    // After a short page the end may still be in view, and the observer reports only changes.
    requestAnimationFrame(() => this.end.getBoundingClientRect().top < innerHeight + AHEAD && this.more());
  }

  #describe() {
    const { query, cursor, tookMs } = this;
    const count = this.hits.length;
    const start = isStart(query);
    this.#notes();
    const time = tookMs < 10 ? tookMs.toFixed(1) : Math.round(tookMs).toLocaleString("en");
    const summary = (cursor ? (order(query) ? "The first " : "The best ") : "") + plural(count, "image");
    byId("status").replaceChildren(...(count && !start ? [summary, el("span", {}, ` · ${time} ms`)] : []));
    this.#end(count > 1 && !cursor && !start ? `End of results: ${plural(count, "image")}.` : "");
    if (!count) this.#nothing();
  }

  #nothing() {
    const { filters, rank, target } = this.query;
    const offer = (label, changes) => el("button", { type: "button", onclick: () => this.on.go(changes) }, label);
    const filtered = filters.size;
    let advice = "The index is empty. Index some images first.";
    const strict = minimum(this.query);
    if (strict) advice = "No image is relevant enough.";
    else if (filtered) advice = "No image matches all these filters.";
    else if (rank === "words") advice = "No caption contains these words. Searching by meaning always finds something.";
    else if (target === "caption") advice = "The index may have no captions.";
    const actions = [
      filtered ? offer("Clear the filters", { filters: new Map() }) : null,
      strict ? offer("Show less relevant images", { min: "", sort: "" }) : null,
      rank !== "clip" ? offer("Search by meaning", { rank: "clip" }) : null,
      target !== "image" ? offer("Search in images", { target: "image" }) : null,
    ];
    this.#panel(el("h2", {}, "No images found"), el("p", {}, advice), el("p", { className: "actions" }, ...actions));
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ServiceError)) throw error;
    this.grid.clear();
    byId("status").textContent = "";
    byId("examples").replaceChildren();
    const again = () => this.search(this.query);
    const actions = { again, choose: chooseImage, clear: () => this.on.go({ filters: new Map() }), anew: () => this.on.go(parse("")) };
    this.#panel(...explain(error, actions));
    byId("problem").querySelector("input")?.focus();
  }

  /** Explain that the query's image was chosen in another tab. */
  #lacksImage(name) {
    this.grid.clear();
    byId("status").textContent = "";
    const explanation = `This search used “${name}”. Images are kept in the tab where they were chosen and are not part of the address.`;
    const choose = el("button", { type: "button", onclick: chooseImage }, "Choose it again");
    this.#panel(el("h2", {}, "The image is not available in this tab"), el("p", {}, explanation), el("p", { className: "actions" }, choose));
  }

  #panel(...parts) {
    byId("problem").replaceChildren(...parts);
    byId("problem").hidden = !parts.length;
  }

  #notes() {
    byId("notes").replaceChildren(...this.notes.map((note) => el("li", {}, note)));
  }

  #end(message, { again = false } = {}) {
    this.end.firstElementChild.textContent = message;
    this.end.lastElementChild.hidden = !again;
  }
}
