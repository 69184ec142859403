// The fields of the index, with the types that `/v1/stats` gives them: what each can be used for, and how it is shown.

import { visible } from "./dom.js";
import { bytes, day, has, number, say } from "./words.js";

const CHIPS = ["tags", "format"];
const GROUPS = ["tags", "format", "bucket"];
const FIRST = ["last_modified", "size", "width", "height"];
const MAX_CHIPS = 6;

class Fields {
  #kinds = new Map();

  know(stats) {
    this.#kinds = new Map(Object.entries(stats.fields));
  }

  kind = (field) => this.#kinds.get(field);

  /** Fields whose values are offered as filters. */
  chips = () => [...CHIPS, ...this.#own("keyword", "integer", "bool")].slice(0, MAX_CHIPS);

  /** Fields that hits can be grouped by. */
  groups = () => [...GROUPS, ...this.#own("keyword", "integer")];

  /** Fields of numbers and dates, which have ranges and an order. */
  ordered() {
    const all = [...this.#kinds].filter(([, kind]) => ["integer", "float", "datetime"].includes(kind)).map(([field]) => field);
    const own = all.filter((field) => field.startsWith("meta."));
    return [...new Set([...FIRST.filter((field) => all.includes(field)), ...own, ...all])];
  }

  /** Fields of the captions files that have one of these types. */
  #own = (...kinds) => [...this.#kinds].filter(([field, kind]) => field.startsWith("meta.") && kinds.includes(kind)).map(([field]) => field);
}

export const fields = new Fields();

/** "meta.shot_on" is "Shot on". */
export function titleOf(field) {
  if (has(`field_${field}`)) return say(`field_${field}`);
  const words = visible(field).replace(/^meta\./, "").replaceAll(/[_.-]+/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** A value of a field as a text. */
export function valueOf(field, value) {
  if (field === "size" && typeof value === "number") return bytes(value);
  if (typeof value === "boolean") return say(value ? "yes" : "no");
  if (fields.kind(field) === "datetime") return day(value, "medium");
  if (fields.kind(field) === "float" && typeof value === "number") return number(value, { maximumFractionDigits: 6 });
  return visible(String(value)); // whole numbers may be years
}
