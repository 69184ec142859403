// The panel of what is typed beside the text: words to move away from, and ranges of numbers and dates.

import { ask } from "./api.js";
import { byId, el } from "./dom.js";
import { fields, titleOf } from "./fields.js";
import { bytes, day, say } from "./words.js";

const MAX_FIELDS = 24; // two searches of a batch each
const UNITS = { "": 1, k: 1e3, m: 1e6, g: 1e9 };
const BOUNDS = ["gte", "lte"];

export class Refine {
  /** `go(changes)` changes the query. */
  constructor(go) {
    this.go = go;
    this.form = byId("refine");
    this.toggle = byId("refine-toggle");
    this.ends = new Map(); // of the values of each field
    this.toggle.onclick = () => this.#open(this.form.hidden);
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.#apply();
    };
    this.form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.#open(false);
      this.toggle.focus();
    });
  }

  /** Show the values of `query`. What is typed and not applied yet stays unless they have changed. */
  draw(query, { again = false } = {}) {
    this.query = query;
    const state = JSON.stringify([query.without, [...query.ranges], fields.ordered()]);
    if (this.form.hidden || (state === this.state && !again)) return;
    this.state = state;
    byId("without").value = query.without;
    const empty = (field) => this.ends.has(field) && this.ends.get(field)[0] === undefined;
    const offered = fields.ordered().filter((field) => !empty(field));
    const shown = [...new Set([...offered, ...query.ranges.keys()])];
    byId("ranges").replaceChildren(...shown.map((field) => this.#range(field, query.ranges.get(field) ?? {})));
  }

  #open(open) {
    this.form.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (!open) return;
    this.draw(this.query, { again: true });
    byId("without").focus();
    if (!this.ends.size) this.#findEnds();
  }

  /** Find the lowest and the highest value of each field, as examples; fields without values are not offered. */
  async #findEnds() {
    const asked = fields.ordered().slice(0, MAX_FIELDS);
    const searches = asked.flatMap((field) => [field, `-${field}`].map((order) => ({ order_by: order, limit: 1 })));
    const { results } = await ask("v1/search/batch", { body: { searches } }).catch(() => ({ results: [] }));
    const valueAt = (index, field) => results[index]?.hits?.map(({ payload }) => first(payload, field))[0];
    if (results.length) this.ends = new Map(asked.map((field, index) => [field, [valueAt(2 * index, field), valueAt(2 * index + 1, field)]]));
    if (!byId("ranges").contains(document.activeElement) && !this.#typed()) this.draw(this.query, { again: true });
  }

  #range(field, bounds) {
    const kind = fields.kind(field);
    const title = titleOf(field);
    const inputs = BOUNDS.map((bound, index) => {
      const value = textOf(field, bounds[bound]);
      const label = say(bound === "gte" ? "at_least" : "at_most", { field: title });
      // A date field of the browser can hold nothing but a day.
      const type = kind === "datetime" && (!value || /^\d{4}-\d\d-\d\d$/.test(value)) ? "date" : "text";
      const end = this.ends.get(field)?.[index];
      const placeholder = end === undefined ? "" : textOf(field, end, { rounded: true });
      const input = el("input", { type, value, placeholder, title: type === "date" ? placeholder : "", "aria-label": label, maxLength: 100 });
      if (type === "text" && kind !== "datetime") input.inputMode = field === "size" ? "text" : "decimal";
      Object.assign(input.dataset, { field, bound, shown: value });
      return input;
    });
    return el("fieldset", {}, el("legend", { dir: "auto" }, title), inputs[0], el("span", { "aria-hidden": "true" }, "–"), inputs[1]);
  }

  #inputs = () => [...byId("ranges").querySelectorAll("input")];

  #typed = () => byId("without").value !== this.query.without || this.#inputs().some(({ value, dataset }) => value !== dataset.shown);

  #apply() {
    const ranges = new Map();
    for (const { value, dataset } of this.#inputs()) {
      const { field, bound, shown } = dataset;
      // A value that was not touched stays as precise as it is in the address.
      const given = value === shown ? this.query.ranges.get(field)?.[bound] : valueIn(field, value.trim());
      if (given !== undefined) ranges.set(field, { ...ranges.get(field), [bound]: given });
    }
    this.go({ without: byId("without").value.trim(), ranges, open: "" });
  }
}

/** A bound as it is typed: sizes with a unit. */
function textOf(field, value, { rounded = false } = {}) {
  if (value === undefined || value === null) return "";
  if (fields.kind(field) === "datetime" && rounded) return day(value, "medium");
  if (field !== "size" || typeof value !== "number") return String(value);
  if (rounded) return bytes(value);
  const [unit, size] = Object.entries(UNITS).findLast(([, each]) => value >= each && value % each === 0) ?? ["", 1];
  return unit ? `${value / size} ${unit === "k" ? "k" : unit.toUpperCase()}B` : String(value);
}

/** What is typed as a value: a number where it is one. Anything else goes to the service, which says what is wrong. */
function valueIn(field, text) {
  if (!text) return undefined;
  if (fields.kind(field) === "datetime") return text;
  const size = field === "size" && /^([\d.]+)\s*([kmg]?)b?$/i.exec(text);
  if (size && !Number.isNaN(Number(size[1]))) return Math.round(Number(size[1]) * UNITS[size[2].toLowerCase()]);
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

/** The first value that a payload has in a field. */
function first(payload, field) {
  const value = field.split(".").reduce((at, name) => (Object.hasOwn(at ?? {}, name) ? at[name] : undefined), payload);
  return (Array.isArray(value) ? value[0] : value) ?? undefined;
}
