// Chips for what the index's pictures have in common: tags, formats, fields of the captions file.

import { ask } from "./api.js";
import { el } from "./dom.js";
import { filter } from "./query.js";

const ALWAYS = ["tags", "format"];
const COUNTABLE = ["keyword", "integer", "bool"]; // types of caption fields whose values make chips
const MOST_FIELDS = 6;
const MOST_VALUES = 40;
const SHOWN = 8;

/** Which fields to offer, from `/v1/stats`. */
export function fieldsOf(stats) {
  const own = Object.entries(stats.fields ?? {}).filter(([, type]) => COUNTABLE.includes(type));
  return [...ALWAYS, ...own.map(([field]) => field)].slice(0, MOST_FIELDS);
}

export class Filters {
  /** `place` is where the chips go; `toggle(field, value)` is called for a press. */
  constructor(place, toggle) {
    this.place = place;
    this.toggle = toggle;
    this.fields = ALWAYS;
    this.opened = new Set();
    this.values = {};
  }

  /** The chips of `query`: at once those already known, then those counted anew. */
  async update(query) {
    this.#draw(query);
    this.waiting?.abort();
    this.waiting = new AbortController();
    const { signal } = this.waiting;
    const answers = await Promise.all(this.fields.map((field) => this.#count(query, field, signal)));
    if (signal.aborted) return;
    this.values = Object.fromEntries(this.fields.map((field, index) => [field, answers[index]]));
    this.#draw(query);
  }

  /** A field that cannot be counted has no chips; the search says what is wrong, where something is. */
  async #count(query, field, signal) {
    const asked = new URLSearchParams({ field, limit: MOST_VALUES });
    const condition = filter(query, field);
    if (condition) asked.set("filter", JSON.stringify(condition));
    const { values } = await ask(`v1/facets?${asked}`, { signal }).catch(() => ({ values: [] }));
    return values.filter(({ value }) => value !== null && value !== "");
  }

  #draw(query) {
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
    const fields = new Set([...this.fields, ...Object.keys(query.filters)]);
    this.place.replaceChildren(...[...fields].map((field) => this.#group(query, field)).filter(Boolean));
    this.place.hidden = !this.place.childElementCount;
    if (focused) [...this.place.querySelectorAll("button")].find(({ dataset }) => dataset.chip === focused)?.focus();
  }

  #group(query, field) {
    const chosen = query.filters[field] ?? [];
    const counted = this.values[field] ?? [];
    const telling = counted.length > 1 && counted.some(({ count }) => count > 1);
    if (!chosen.length && !telling) return null;
    // Chosen ones stay though no picture has them any more: how else to let go of them?
    const missing = chosen.filter((value) => !counted.some((each) => each.value === value));
    const values = [...missing.map((value) => ({ value })), ...counted];
    const all = this.opened.has(field);
    const shown = values.filter(({ value }, index) => all || index < SHOWN || chosen.includes(value));
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
