// Filters as chips: values of fields with their counts, the ranges, and what is excluded.

import { ask } from "./api.js";
import { el, visible } from "./dom.js";
import { fields, titleOf, valueOf } from "./fields.js";
import { filter } from "./query.js";
import { number, say } from "./words.js";

const MAX_VALUES = 40;
const VALUES_SHOWN = 8;

export class Filters {
  /** `place` is the parent element; `toggle(field, value)` is called on a click, `go(changes)` for ranges. */
  constructor(place, { toggle, go }) {
    Object.assign(this, { place, toggle, go, opened: new Set(), counts: new Map() });
  }

  /** Draw the chips of `query` with the known counts, then again with new ones. */
  async update(query) {
    this.draw(query);
    this.waiting?.abort();
    this.waiting = new AbortController();
    const { signal } = this.waiting;
    const offered = fields.chips();
    const answers = await Promise.all(offered.map((field) => this.#count(query, field, signal)));
    if (signal.aborted) return;
    this.counts = new Map(offered.map((field, index) => [field, answers[index]]));
    this.draw(query);
  }

  draw(query) {
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
    const shown = new Set([...fields.chips(), ...query.filters.keys(), ...query.ranges.keys()]);
    const groups = [...shown].map((field) => [titleOf(field), [...this.#values(query, field), ...this.#range(query, field)]]);
    groups.push([say("excluded"), this.#excluded(query)]);
    this.place.replaceChildren(...groups.filter(([, chips]) => chips.length).map(([title, chips]) => group(title, chips)));
    this.place.hidden = !this.place.childElementCount;
    if (focused) [...this.place.querySelectorAll("button")].find(({ dataset }) => dataset.chip === focused)?.focus();
  }

  /** The values of a field, empty if they cannot be counted: the search reports the error. */
  async #count(query, field, signal) {
    const condition = filter(query, field);
    const body = { field, limit: MAX_VALUES, ...(condition && { filter: condition }) };
    const { values } = await ask("v1/facets", { body, signal }).catch(() => ({ values: [] }));
    return values.filter(({ value }) => value !== null && value !== "");
  }

  #values(query, field) {
    const chosen = query.filters.get(field) ?? [];
    const counted = this.counts.get(field) ?? [];
    const informative = counted.length > 1 && counted.some(({ count }) => count > 1);
    if (!chosen.length && !informative) return [];
    // Chosen values are shown even if no image has them, so that they can be removed.
    const missing = chosen.filter((value) => !counted.some((each) => each.value === value));
    const values = [...missing.map((value) => ({ value })), ...counted];
    const all = this.opened.has(field);
    const shown = values.filter(({ value }, index) => all || index < VALUES_SHOWN || chosen.includes(value));
    const chips = shown.map(({ value, count }) =>
      chip(field, value, {
        text: valueOf(field, value),
        count,
        pressed: chosen.includes(value),
        onclick: () => this.toggle(field, value),
      }),
    );
    if (shown.length < values.length || all) chips.push(this.#more(query, field, all, values.length - shown.length));
    return chips;
  }

  #more(query, field, all, hidden) {
    const onclick = () => {
      if (!this.opened.delete(field)) this.opened.add(field);
      this.draw(query);
    };
    const text = all ? say("fewer") : say("more", { count: hidden });
    const button = el("button", { type: "button", className: "link", "aria-expanded": String(all), onclick }, text);
    button.dataset.chip = field;
    return button;
  }

  #range(query, field) {
    const bounds = query.ranges.get(field);
    if (!bounds) return [];
    const onclick = () => this.go({ ranges: new Map([...query.ranges].filter(([each]) => each !== field)) });
    const [from, to] = [bounds.gte, bounds.lte].map((value) => (value === undefined ? "" : valueOf(field, value)));
    const text = say(from && to ? "from_to" : from ? "from_on" : "up_to", { from, to });
    return [chip(field, "range", { text, pressed: true, onclick })];
  }

  #excluded(query) {
    if (!query.excluded.length) return [];
    const onclick = () => this.go({ excluded: [] });
    const text = say("images", { count: query.excluded.length });
    const made = chip("", "excluded", { text, pressed: true, onclick });
    made.title = query.excluded.map(visible).join("\n");
    return [made];
  }
}

function group(title, chips) {
  return el("div", { role: "group", "aria-label": title }, el("span", { className: "title", dir: "auto" }, title), ...chips);
}

function chip(field, value, { text, count, pressed, onclick }) {
  const made = el(
    "button",
    { type: "button", className: "chip", title: text, "aria-pressed": String(pressed), onclick },
    el("span", { className: "value", dir: "auto" }, text),
    count === undefined ? null : el("span", { className: "count" }, number(count)),
  );
  made.dataset.chip = `${field}:${value}`;
  return made;
}
