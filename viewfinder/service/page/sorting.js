// The order of the hits and their minimum relevance: two lists of choices.

import { byId, el } from "./dom.js";
import { titleOf } from "./filters.js";
import { hasContent, isGraded, isSortable, minimum, order } from "./query.js";

const MINIMA = ["0.8", "0.9", "0.95", "0.99"];
const MAX_FIELDS = 8;
const OWN = [
  ["-last_modified", "newest first"],
  ["last_modified", "oldest first"],
  ["-size", "largest files first"],
  ["size", "smallest files first"],
];
const WORDS = { integer: ["highest", "lowest"], float: ["highest", "lowest"], datetime: ["newest", "oldest"] };

export class Sorting {
  /** `go(changes)` changes the query. */
  constructor(go) {
    this.choices = OWN;
    this.measured = true;
    byId("sort").onchange = ({ target }) => go({ sort: target.value });
    byId("min").onchange = ({ target }) => go({ min: target.value });
  }

  /** The fields of the captions files, and whether hits have a relevance, from `/v1/stats`. */
  know(stats) {
    const fields = Object.entries(stats.fields ?? {}).filter(([, type]) => type in WORDS);
    const own = fields.slice(0, MAX_FIELDS).flatMap(([field, type]) =>
      ["-", ""].map((sign, index) => [sign + field, `${titleOf(field)}, ${WORDS[type][index]} first`]),
    );
    this.choices = [...OWN, ...own];
    this.measured = stats.relevance;
  }

  draw(query) {
    const compares = hasContent(query);
    const grades = isGraded(query) && this.measured;
    for (const label of document.querySelectorAll("#choices .compare")) label.hidden = !compares;
    // A query without relevance has no minimum that decides which hits are sorted.
    const sortable = !compares || (isSortable(query) && (this.measured || query.rank === "words"));
    fill(byId("sort"), [...(compares ? [["", "best first"]] : []), ...this.choices], order(query), sortable);
    const any = order(query) && compares ? [] : [["", "any"]];
    fill(byId("min"), [...any, ...MINIMA.map((value) => [value, percent(value)])], minimum(query), grades);
    byId("sort").title = sortable ? "" : "Only searches for one text or image by meaning, or for words, can be sorted.";
    byId("min").title = grades ? "" : "These hits have no relevance.";
  }
}

/** Show the choices; a value in the address that is none of them is one, too. */
function fill(select, choices, value, enabled) {
  const all = choices.some(([each]) => each === value) ? choices : [...choices, [value, labelOf(value)]];
  select.replaceChildren(...all.map(([each, label]) => el("option", { value: each }, label)));
  select.value = value;
  select.disabled = !enabled;
}

const percent = (value) => `${Number((100 * value).toFixed(4))} % or more`;

function labelOf(value) {
  if (value && !Number.isNaN(Number(value))) return percent(value);
  return value ? `${titleOf(value.replace(/^-/, ""))}, ${value.startsWith("-") ? "descending" : "ascending"}` : "any";
}
