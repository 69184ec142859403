// The results: pages of hits, and notes about them.

import { address, fresh, key } from "./address.js";
import { ask, ServiceError } from "./api.js";
import { byId, el } from "./dom.js";
import { valueOf } from "./fields.js";
import { Grid } from "./grid.js";
import { explain, summary, told } from "./problem.js";
import { grouping, hasContent, isFiltered, isStart, minimum, order, request, UNFILTERED } from "./query.js";
import { chooseImage, uploads } from "./uploads.js";
import { number, say } from "./words.js";

const REMEMBERED = 8; // results kept for the back button
const AHEAD = 900; // pixels below the screen at which the next page is fetched

export class Results {
  /** `on` has `begin(signal)` before the first search, `arrived()` after each page, `go(changes)`, and those of the grid. */
  constructor(on) {
    this.on = on;
    this.key = null;
    this.hits = []; // without the repetitions of groups
    this.pages = [];
    this.cursor = null;
    this.remembered = new Map();
    this.grid = new Grid(byId("results"), { link: (id) => address({ ...this.query, open: id }), select: on.select, isSelected: on.isSelected });
    this.end = byId("end");
    this.end.lastElementChild.onclick = () => this.more();
    const near = ([entry]) => entry.isIntersecting && this.more();
    new IntersectionObserver(near, { rootMargin: `${AHEAD}px` }).observe(this.end);
  }

  /** Show the first page of `query`, after `notice`; a running search is aborted. */
  async search(query, notice) {
    const mine = this.#begin(query);
    if (notice) this.say(notice);
    if (this.grid.hits.size) this.grid.list.setAttribute("aria-busy", "true"); // dimmed until the new results arrive
    else this.grid.wait();
    byId("status").textContent = isStart(query) ? "" : say("searching");
    try {
      const lost = query.image && !uploads.has(query.image);
      if (lost && !hasContent({ ...query, image: "" })) return this.#lacksImage(query.image);
      await this.on.begin(mine.signal);
      const [path, body] = await request(query, uploads.get(query.image));
      const answer = await ask(path, { body, signal: mine.signal });
      if (mine !== this.searching) return;
      this.tookMs = answer.took_ms;
      if (!isStart(query)) this.#warn(answer.warnings);
      if (lost) this.say("image_ignored", { name: query.image });
      this.grid.clear();
      scrollTo(0, 0);
      this.#add(answer);
    } catch (error) {
      if (mine === this.searching) this.#fail(error);
    } finally {
      if (mine === this.searching) this.grid.list.removeAttribute("aria-busy");
    }
  }

  /** A note above the results, for as long as they are shown. */
  say(name, values) {
    this.notes.push(() => el("li", {}, say(name, values)));
    this.#notes();
  }

  /** Notes with the warnings of the service, each once. */
  #warn(warnings) {
    for (const text of warnings.filter((each) => !this.warned.has(each))) {
      this.warned.add(text);
      this.notes.push(() => told("li", {}, text));
    }
  }

  /** Keep the results for the back button. */
  remember() {
    if (!this.hits.length) return;
    const { key, pages, cursor, notes, warned, tookMs } = this;
    this.remembered.delete(key);
    this.remembered.set(key, { pages, cursor, notes, warned, tookMs, scroll: scrollY });
    if (this.remembered.size > REMEMBERED) this.remembered.delete(this.remembered.keys().next().value);
  }

  /** Show the remembered results of `query` at their scroll position; false if there are none. */
  restore(query) {
    const known = this.remembered.get(key(query));
    if (!known) return false;
    this.#begin(query);
    const { pages, scroll, ...rest } = known;
    Object.assign(this, rest);
    this.#redraw(pages);
    scrollTo(0, scroll);
    return true;
  }

  /** Show the same in the language that is spoken now, with links to addresses of `query`. */
  translate(query) {
    this.query = query;
    if (this.hits.length) this.#redraw(this.pages);
    else this.#panel(this.panel);
    this.#notes();
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
    Object.assign(this, { query, key: key(query), hits: [], pages: [], notes: [], warned: new Set(), cursor: null, coming: null });
    this.#panel(null);
    this.#notes();
    this.#end("");
    return this.searching;
  }

  async #next() {
    const mine = this.searching;
    this.#end(say("loading"));
    try {
      const [path, body] = await request(this.query, uploads.get(this.query.image), this.cursor);
      const answer = await ask(path, { body, signal: mine.signal });
      if (mine !== this.searching) return;
      this.#warn(answer.warnings); // that some hits are in no page
      this.#add(answer);
    } catch (error) {
      if (mine !== this.searching || error.name === "AbortError") return;
      if (error.status !== 410) return this.#end(`${summary(error)} `, { again: true });
      this.search(this.query, "rebuilt");
    }
  }

  #redraw(pages) {
    this.grid.list.removeAttribute("aria-busy");
    this.grid.clear();
    this.hits = [];
    this.pages = [];
    for (const page of pages) this.#append(page);
    this.#arrived();
  }

  #add({ hits, groups, cursor }) {
    this.cursor = isStart(this.query) ? null : (cursor ?? null);
    this.#append({ hits, groups });
    this.#arrived();
  }

  #append({ hits, groups }) {
    const known = new Set(this.hits.map(({ id }) => id));
    this.pages.push({ hits, groups });
    this.hits.push(...hits.concat(...(groups ?? []).map((group) => group.hits)).filter(({ id }) => !known.has(id) && known.add(id)));
    const graded = hasContent(this.query);
    if (!groups) this.grid.append(hits, { graded });
    for (const group of groups ?? []) this.grid.append(group.hits, { graded, heading: this.#heading(group.value) });
  }

  /** The heading of a group, with a button for all of its images. */
  #heading(value) {
    const { filters, group } = this.query;
    const all = { filters: new Map([...filters, [group, [...new Set([...(filters.get(group) ?? []), value])]]]), group: "", open: "" };
    return [
      el("h2", { dir: "auto" }, valueOf(group, value)),
      el("button", { type: "button", className: "link", onclick: () => this.on.go(all) }, say("all_of_group")),
    ];
  }

  #arrived() {
    this.#describe();
    this.on.arrived();
    // After a short page the end may still be in view, and the observer reports only changes.
    requestAnimationFrame(() => this.end.getBoundingClientRect().top < innerHeight + AHEAD && this.more());
  }

  #describe() {
    const { query, cursor, tookMs, pages } = this;
    const start = isStart(query);
    const grouped = grouping(query);
    const count = grouped ? pages.reduce((sum, { groups }) => sum + (groups?.length ?? 0), 0) : this.hits.length;
    const counted = say(grouped ? "groups" : "images", { count });
    this.#notes();
    const time = number(tookMs, { style: "unit", unit: "millisecond", maximumFractionDigits: tookMs < 10 ? 1 : 0 });
    const summary = cursor ? say(order(query) ? "the_first" : "the_best", { counted }) : counted;
    byId("status").replaceChildren(...(count && !start ? [summary, el("span", {}, ` · ${time}`)] : []));
    this.#end(count > 1 && !cursor && !start ? say("end", { counted }) : "");
    if (!count) this.#nothing();
  }

  #nothing() {
    const { rank, target } = this.query;
    const offer = (label, changes) => el("button", { type: "button", onclick: () => this.on.go(changes) }, say(label));
    const filtered = isFiltered(this.query);
    const strict = minimum(this.query);
    const reasons = [
      [strict, "none_relevant"],
      [filtered, "none_match"],
      [grouping(this.query), "none_grouped"],
      [rank === "words", "none_by_words"],
      [target === "caption", "none_by_caption"],
    ];
    const [, advice] = reasons.find(([holds]) => holds) ?? [true, "none"];
    this.#panel(() => [
      el("h2", {}, say("nothing_found")),
      el("p", {}, say(advice)),
      el(
        "p",
        { className: "actions" },
        filtered ? offer("clear_filters", UNFILTERED) : null,
        strict ? offer("show_less_relevant", { min: "", sort: "" }) : null,
        grouping(this.query) ? offer("show_ungrouped", { group: "" }) : null,
        rank !== "clip" ? offer("search_by_meaning", { rank: "clip" }) : null,
        target !== "image" ? offer("search_in_images", { target: "image" }) : null,
      ),
    ]);
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ServiceError)) throw error;
    this.grid.clear();
    byId("status").textContent = "";
    byId("examples").replaceChildren();
    const actions = {
      again: () => this.search(this.query),
      choose: chooseImage,
      clear: () => this.on.go({ ...UNFILTERED, sort: "", group: "" }), // they name fields, too
      relax: () => this.on.go({ min: "", sort: "" }),
      anew: () => this.on.go(fresh(this.query)),
    };
    this.#panel(() => explain(error, actions));
    byId("problem").querySelector("input")?.focus();
  }

  /** Explain that the query's image was chosen in another tab. */
  #lacksImage(name) {
    this.grid.clear();
    byId("status").textContent = "";
    this.#panel(() => [
      el("h2", {}, say("image_missing")),
      el("p", {}, say("image_elsewhere", { name })),
      el("p", { className: "actions" }, el("button", { type: "button", onclick: chooseImage }, say("choose_again"))),
    ]);
  }

  #panel(make) {
    this.panel = make;
    byId("problem").replaceChildren(...(make?.() ?? []));
    byId("problem").hidden = !make;
  }

  #notes() {
    byId("notes").replaceChildren(...this.notes.map((make) => make()));
  }

  #end(message, { again = false } = {}) {
    this.end.firstElementChild.textContent = message;
    this.end.lastElementChild.hidden = !again;
  }
}
