// Filter chips: tags, formats, and fields of the captions file.

import { ask } from "./api.js";
import { el } from "./dom.js";
import { filter } from "./query.js";

const ALWAYS = ["tags", "format"];
const COUNTABLE = ["keyword", "integer", "bool"]; // types of fields whose values can be counted
const MAX_FIELDS = 6;
const MAX_VALUES = 40;
const VALUES_SHOWN = 8;

/** The fields to offer, from `/v1/stats`. */
export function fieldsOf(stats) {
  const own = Object.entries(stats.fields ?? {}).filter(([, type]) => COUNTABLE.includes(type));
  return [...ALWAYS, ...own.map(([field]) => field)].slice(0, MAX_FIELDS);
}

export class Filters {
  /** `place` is the parent element; `toggle(field, value)` is called on a click. */
  constructor(place, toggle) {
    this.place = place;
    this.toggle = toggle;
    this.fields = ALWAYS;
    this.opened = new Set();
    this.values = new Map();
  }

  /** Draw the chips of `query` with the known values, then again with new counts. */
  async update(query) {
    this.#draw(query);
    this.waiting?.abort();
    this.waiting = new AbortController();
    const { signal } = this.waiting;
    const answers = await Promise.all(this.fields.map((field) => this.#count(query, field, signal)));
    if (signal.aborted) return;
    this.values = new Map(this.fields.map((field, index) => [field, answers[index]]));
    this.#draw(query);
  }

  /** The values of a field, empty if they cannot be counted: the search reports the error. */
  async #count(query, field, signal) {
    const condition = filter(query, field);
    const body = { field, limit: MAX_VALUES, ...(condition && { filter: condition }) };
    const { values } = await ask("v1/facets", { body, signal }).catch(() => ({ values: [] }));
    return values.filter(({ value }) => value !== null && value !== "");
  }

  #draw(query) {
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
    const fields = new Set([...this.fields, ...query.filters.keys()]);
    this.place.replaceChildren(...[...fields].map((field) => this.#group(query, field)).filter(Boolean));
    this.place.hidden = !this.place.childElementCount;
    if (focused) [...this.place.querySelectorAll("button")].find(({ dataset }) => dataset.chip === focused)?.focus();
  }

  #group(query, field) {
    const chosen = query.filters.get(field) ?? [];
    const counted = this.values.get(field) ?? [];
    const informative = counted.length > 1 && counted.some(({ count }) => count > 1);
    if (!chosen.length && !informative) return null;
    // Chosen values are shown even if no image has them, so that they can be removed.
    const missing = chosen.filter((value) => !counted.some((each) => each.value === value));
    const values = [...missing.map((value) => ({ value })), ...counted];
    const all = this.opened.has(field);
    const shown = values.filter(({ value }, index) => all || index < VALUES_SHOWN || chosen.includes(value));
    const title = titleOf(field);
    const group = el("div", { role: "group", "aria-label": title }, el("span", { className: "title" }, title));
    for (const { value, count } of shown) {
      const chip = el(
        "button",
        { type: "button", className: "chip", "aria-pressed": String(chosen.includes(value)) },
        String(value),
        count === undefined ? null : el("span", { className: "count" }, count.toLocaleString("en")),
      );
      chip.dataset.chip = `${field}:${value}`;
      chip.addEventListener("click", () => this.toggle(field, value));
      group.append(chip);
    }
    if (shown.length < values.length || all) {
      const more = el(
        "button",
        { type: "button", className: "link", "aria-expanded": String(all) },
        all ? "fewer" : `${values.length - shown.length} more`,
      );
      more.dataset.chip = field;
      more.addEventListener("click", () => {
        if (!this.opened.delete(field)) this.opened.add(field);
        this.#draw(query);
      });
      group.append(more);
    }
    return group;
  }
}

/** "meta.shot_on" is "Shot on". */
export function titleOf(field) {
  const words = field.replace(/^meta\./, "").replaceAll(/[_.-]+/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
