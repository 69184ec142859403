// The page. Its address holds the query, and everything on the screen follows from the query.

import { apiKey, ask } from "./api.js";
import { byId, el, plural } from "./dom.js";
import { fieldsOf, Filters } from "./filters.js";
import { drawParts } from "./parts.js";
import { address, hasContent, isStart, isWordy, key, parse } from "./query.js";
import { Results } from "./results.js";
import { Sorting } from "./sorting.js";
import { acceptImages } from "./uploads.js";
import { Viewer } from "./viewer.js";

const MAX_EXAMPLES = 5;
const MAX_EXAMPLE_LENGTH = 44; // characters

const text = byId("text");
let query = parse(location.search);
let stats = null;

const filters = new Filters(byId("filters"), toggleFilter);
const sorting = new Sorting(go);
const results = new Results({ begin, arrived, go });
const viewer = new Viewer({
  step,
  close: closeViewer,
  like: (id) => compare(id, "like"),
  unlike: (id) => compare(id, "unlike"),
  tag: (tag) => go({ filters: new Map([["tags", [tag]]]), open: "" }),
});

/** Change the query, as a new entry of the history or in place of the current one. */
function go(changes, { replace = false } = {}) {
  results.remember();
  query = { ...query, ...changes };
  const state = { within: replace ? history.state?.within : true }; // true if going back stays on this page
  history[replace ? "replaceState" : "pushState"](state, "", address(query));
  render();
}

/** Update the screen from the query. */
function render({ back = false } = {}) {
  text.value = query.text;
  byId("target").value = query.target;
  byId("target").disabled = query.rank === "words" && isWordy(query);
  byId("rank").value = query.rank;
  byId("rank").disabled = !isWordy(query);
  document.title = query.text ? `${query.text} – viewfinder` : "viewfinder";
  document.body.dataset.view = isStart(query) ? "home" : "results";
  byId("home").hidden = !isStart(query);
  sorting.draw(query);
  drawParts(query, go);
  if (results.key !== key(query)) {
    if (stats) filters.update(query); // otherwise `begin` does it
    if (!back || !results.restore(query)) results.search(query);
  }
  openViewer();
}

/** The first request: the service's statistics, and the fields to filter by. */
async function begin(signal) {
  if (stats) return;
  stats = await ask("v1/stats", { signal });
  byId("forget").hidden = !apiKey.get();
  // An older Qdrant cannot rank by words.
  for (const option of byId("rank").options) option.hidden = option.disabled = !stats.words && option.value !== "clip";
  sorting.know(stats);
  sorting.draw(query);
  filters.fields = fieldsOf(stats);
  filters.update(query);
  const strong = (content) => el("strong", {}, content);
  byId("about").replaceChildren(
    ...[strong(plural(stats.points, "image")), " in ", strong(stats.index), ", model ", strong(stats.model)],
    ...[". ", el("a", { className: "browse", href: address({ ...parse(""), sort: "-last_modified" }) }, "Browse all, newest first"), ". "],
    ...[el("span", { className: "drop" }, "You can also drop an image anywhere. "), el("a", { href: "docs" }, "API documentation")],
    stats.behind ? el("span", { className: "warning" }, stats.behind) : "",
  );
}

function arrived() {
  if (isStart(query)) drawExamples();
  openViewer();
}

/** The examples are captions of the index, so each finds something. */
function drawExamples() {
  const captions = new Set(results.hits.map(({ caption }) => caption ?? ""));
  const short = [...captions].filter(({ length }) => length && length <= MAX_EXAMPLE_LENGTH);
  const item = (caption) =>
    el("li", {}, el("a", { className: "chip", dir: "auto", href: address({ ...parse(""), text: caption }) }, caption));
  byId("examples").replaceChildren(...short.slice(0, MAX_EXAMPLES).map(item));
}

function toggleFilter(field, value) {
  const chosen = query.filters.get(field) ?? [];
  const values = chosen.includes(value) ? chosen.filter((each) => each !== value) : [...chosen, value];
  const filters = new Map(query.filters);
  if (values.length) filters.set(field, values);
  else filters.delete(field);
  go({ filters });
}

function compare(id, side) {
  const lists = Object.fromEntries(["like", "unlike"].map((each) => [each, query[each].filter((other) => other !== id)]));
  go({ ...lists, [side]: [...lists[side], id], text: text.value.trim(), open: "" });
  byId("status").focus({ preventScroll: true });
}

// --- The large image

async function openViewer() {
  const id = query.open;
  if (!id) return closeDialog();
  const at = results.hits.findIndex((hit) => hit.id === id);
  let hit = results.hits[at] ?? (viewer.hit?.id === id ? viewer.hit : null);
  if (!hit) {
    try {
      hit = await ask(`v1/images/${encodeURIComponent(id)}`);
    } catch (error) {
      if (query.open !== id || error.status === 401) return; // the search asks for the key and then opens the image again
      const gone = error.status === 404 || error.status === 422;
      results.say(gone ? "The image in this address is not in the index." : error.message);
      return go({ open: "" }, { replace: true });
    }
    if (query.open !== id || viewer.hit?.id === id) return;
  }
  const next = at >= 0 && Boolean(at + 1 < results.hits.length || results.cursor);
  viewer.show(hit, { previous: at > 0, next, comparable: hasContent(query) });
}

function closeDialog() {
  if (!viewer.isOpen) return;
  const { id } = viewer.hit;
  viewer.close();
  results.grid.focus(id);
}

/** Go back if the image was opened on this page, so that the history has no loops. */
function closeViewer() {
  if (history.state?.within) history.back();
  else go({ open: "" }, { replace: true });
}

async function step(by) {
  const at = results.hits.findIndex(({ id }) => id === query.open);
  if (at < 0) return;
  const coming = at + by >= results.hits.length - 3 ? results.more() : null;
  if (at + by >= results.hits.length) await coming;
  const hit = results.hits[at + by];
  if (hit && query.open) go({ open: hit.id }, { replace: true });
}

// --- Events

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = { ...query, text: text.value.trim() };
  if (key(wanted) === key(query)) results.search(query); // the same search again: it may have failed
  else go({ text: wanted.text, open: "" });
});
for (const name of ["target", "rank"]) byId(name).onchange = ({ target }) => go({ [name]: target.value });
byId("forget").onclick = () => {
  apiKey.forget();
  location.reload();
};
acceptImages((image) => go({ image, open: "" }));

// A click on a link to a search does not reload the page, unless a modifier key is pressed.
document.addEventListener("click", (event) => {
  const link = event.target.closest("#brand, #examples a, #about a.browse, a.tile");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(parse(link.search));
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || viewer.isOpen || event.target.matches("input, select, textarea")) return;
  event.preventDefault();
  text.select();
});
addEventListener("popstate", () => {
  results.remember();
  query = parse(location.search);
  render({ back: true });
});

history.scrollRestoration = "manual";
render();
if (isStart(query) && matchMedia("(hover: hover)").matches) text.focus(); // a phone would open its keyboard
