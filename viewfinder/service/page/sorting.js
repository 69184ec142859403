// How the hits are arranged: order, minimum relevance, groups, copies. Lists of choices.

import { byId, el } from "./dom.js";
import { fields, titleOf } from "./fields.js";
import { collapsing, grouping, hasContent, isGraded, isSortable, minimum, order } from "./query.js";
import { percent, say } from "./words.js";

const MINIMA = ["0.8", "0.9", "0.95", "0.99"];

export class Sorting {
  /** `go(changes)` changes the query. */
  constructor(go) {
    this.measured = true;
    for (const name of ["sort", "min", "group", "collapse"]) byId(name).onchange = ({ target }) => go({ [name]: target.value });
  }

  /** From `/v1/stats`: whether hits have a relevance. */
  know(stats) {
    this.measured = stats.relevance;
  }

  draw(query) {
    const compares = hasContent(query);
    const grades = isGraded(query) && this.measured;
    for (const label of document.querySelectorAll("#choices .compare")) label.hidden = !compares;
    // A query without relevance has no minimum that decides which hits are sorted.
    const sortable = !compares || (isSortable(query) && (this.measured || query.rank === "words"));
    const orders = fields.ordered().flatMap((field) => [`-${field}`, field].map((each) => [each, orderText(each)]));
    fill(byId("sort"), [...(compares ? [["", say("best_first")]] : []), ...orders], order(query), orderText, sortable);
    byId("sort").title = sortable ? "" : say(grouping(query) ? "groups_unsorted" : "unsortable");
    const any = order(query) && compares ? [] : [["", say("any")]];
    const shares = MINIMA.map((value) => [value, shareText(value)]);
    fill(byId("min"), [...any, ...shares], minimum(query), shareText, grades);
    byId("min").title = grades ? "" : say("no_relevance");
    const groups = fields.groups().map((field) => [field, titleOf(field)]);
    fill(byId("group"), [["", say("no_groups")], ...groups], grouping(query), titleOf, true);
    byId("collapse").value = collapsing(query);
    byId("collapse").disabled = Boolean(grouping(query));
  }
}

/** Show the choices; a value in the address that is none of them is one, too. */
function fill(select, choices, value, textOf, enabled) {
  const all = choices.some(([each]) => each === value) ? choices : [...choices, [value, value ? textOf(value) : ""]];
  select.replaceChildren(...all.map(([each, label]) => el("option", { value: each }, label)));
  select.value = value;
  select.disabled = !enabled;
}

const shareText = (value) => say("or_more", { share: Number.isNaN(Number(value)) ? value : percent(value) });

function orderText(order) {
  const field = order.replace(/^-/, "");
  const direction = order.startsWith("-") ? "last" : "first"; // the values that come last in ascending order, or first
  if (field === "size") return say(`files_${direction}`);
  if (field === "last_modified") return say(`dates_${direction}`);
  const kind = fields.kind(field) === "datetime" ? "dates" : "numbers";
  return say("field_order", { field: titleOf(field), order: say(`${kind}_${direction}`) });
}
