// The page. Its address holds the query, and everything on the screen follows from the query.

import { address, fresh, key, parse } from "./address.js";
import { apiKey, ask, index, indexed } from "./api.js";
import { byId, el } from "./dom.js";
import { fields } from "./fields.js";
import { Filters } from "./filters.js";
import { listenToKeys } from "./keys.js";
import { drawParts } from "./parts.js";
import { hasContent, isStart, isWordy } from "./query.js";
import { Refine } from "./refine.js";
import { Results } from "./results.js";
import { Selection } from "./selection.js";
import { received, share } from "./share.js";
import { Sorting } from "./sorting.js";
import { acceptImages } from "./uploads.js";
import { Viewer } from "./viewer.js";
import { choose, other, phrase, say, speak } from "./words.js";

const MAX_EXAMPLES = 5;
const MAX_EXAMPLE_LENGTH = 44; // characters

const text = byId("text");
let query = received(location);
let stats = null;

const selection = new Selection({
  hits: () => results.hits,
  changed: () => {
    results.grid.mark();
    viewer.mark();
  },
  exclude: (hits) => go({ excluded: [...new Set([...query.excluded, ...hits.map(({ uri }) => uri)])], open: "" }),
});
const selecting = { select: (hit, how) => selection.select(hit, how), isSelected: selection.has };
const filters = new Filters(byId("filters"), { toggle: toggleFilter, go });
const sorting = new Sorting(go);
const refine = new Refine(go);
const results = new Results({ begin, arrived, go, ...selecting });
const viewer = new Viewer({
  step,
  close: closeViewer,
  like: (id) => compare(id, "like"),
  unlike: (id) => compare(id, "unlike"),
  tag: (tag) => go({ filters: new Map([["tags", [tag]]]), open: "" }),
  ...selecting,
});

/** Change the query, as a new entry of the history or in place of the current one. */
function go(changes, { replace = false } = {}) {
  results.remember();
  query = { ...query, ...changes };
  const state = { within: replace ? history.state?.within : true }; // true if going back stays on this page
  history[replace ? "replaceState" : "pushState"](state, "", address(query));
  render();
}

/** Take the small copy of an image out of the address, once it is kept. */
const clean = () => history.replaceState(history.state, "", address(query));

/** Update the screen from the query. */
function render({ back = false } = {}) {
  if (speak(choose(query.lang))) translate();
  text.value = query.text;
  byId("target").value = query.target;
  byId("target").disabled = query.rank === "words" && isWordy(query);
  byId("rank").value = query.rank;
  byId("rank").disabled = !isWordy(query);
  document.title = query.text ? `${query.text} – viewfinder` : "viewfinder";
  document.body.dataset.view = isStart(query) ? "home" : "results";
  byId("home").hidden = !isStart(query);
  byId("brand").href = address(fresh(query));
  sorting.draw(query);
  refine.draw(query);
  drawParts(query, go);
  if (results.key !== key(query)) {
    if (stats) filters.update(query); // otherwise `begin` does it
    if (!back || !results.restore(query)) results.search(query);
  }
  openViewer();
}

/** Draw in the language that is spoken now what `render` does not draw anew. */
function translate() {
  const next = other();
  byId("language").textContent = say(`language_${next}`);
  byId("language").lang = next;
  byId("language").onclick = () => go({ lang: next }, { replace: true });
  if (results.key === null) return;
  if (stats) describe();
  filters.draw(query);
  refine.draw(query, { again: true });
  results.translate(query);
  selection.draw();
  viewer.translate();
}

/** The first request: the service's statistics, and the fields to filter by. */
async function begin(signal) {
  if (stats) return;
  // Both at once: the list is needed also if there is no such index.
  [stats] = await Promise.all([ask(indexed("v1/stats"), { signal }), offerIndexes(signal)]);
  byId("forget").hidden = !apiKey.get();
  // An older Qdrant cannot rank by words.
  for (const option of byId("rank").options) option.hidden = option.disabled = !stats.words && option.value !== "clip";
  fields.know(stats);
  sorting.know(stats);
  sorting.draw(query);
  refine.draw(query);
  filters.update(query);
  describe();
}

/** Offer the indexes of the service, if there are several. */
async function offerIndexes(signal) {
  const { indexes, default: first } = await ask("v1/indexes", { signal });
  const choice = byId("index");
  choice.replaceChildren(...indexes.map(({ name }) => el("option", { value: name }, name)));
  choice.value = index || first;
  choice.hidden = indexes.length < 2;
  choice.onchange = () => {
    const chosen = { index: choice.value, ...(query.lang && { lang: query.lang }) };
    choice.value = index || first; // what the browser's back button shows again
    location.assign(`./?${new URLSearchParams(chosen)}`);
  };
}

/** Describe the index on the start page. */
function describe() {
  const strong = (content) => el("strong", {}, content);
  const said = {
    counted: strong(say("images", { count: stats.points })),
    index: strong(stats.index),
    model: strong(stats.model),
    browse: el("a", { className: "browse", href: address({ ...fresh(query), sort: "-last_modified" }) }, say("browse")),
    drop: el("span", { className: "drop" }, say("can_drop"), " "),
    docs: el("a", { href: "docs" }, say("api_docs")),
  };
  byId("about").replaceChildren(
    ...phrase("about", said),
    stats.behind ? el("span", { className: "warning", lang: "en" }, stats.behind) : "",
  );
}

function arrived() {
  if (isStart(query)) drawExamples();
  selection.draw();
  openViewer();
}

/** The examples are captions of the index, so each finds something. */
function drawExamples() {
  const captions = new Set(results.hits.map(({ caption }) => caption ?? ""));
  const short = [...captions].filter(({ length }) => length && length <= MAX_EXAMPLE_LENGTH);
  const item = (caption) =>
    el("li", {}, el("a", { className: "chip", dir: "auto", href: address({ ...fresh(query), text: caption }) }, caption));
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
      hit = await ask(indexed(`v1/images/${encodeURIComponent(id)}`));
    } catch (error) {
      if (query.open !== id || error.status === 401) return; // the search asks for the key and then opens the image again
      const gone = error.status === 404 || error.status === 422;
      results.say(gone ? "image_gone" : "image_failed", { message: error.message });
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
  const typed = text.value.trim();
  // An address is an image to search with: as a text it describes nothing.
  const changes = /^https?:\/\/\S+$/i.test(typed) ? { url: typed, text: "" } : { text: typed };
  if (key({ ...query, ...changes }) === key(query)) results.search(query); // the same search again: it may have failed
  else go({ ...changes, open: "" });
});
for (const name of ["target", "rank"]) byId(name).onchange = ({ target }) => go({ [name]: target.value });
byId("share-open").onclick = () => share(query);
byId("forget").onclick = () => {
  apiKey.forget();
  location.reload();
};
acceptImages((image) => go({ image, open: "" }));
listenToKeys({ search: () => text.select(), grid: () => results.grid.focus() });

// A click on a link to a search does not reload the page, unless a modifier key is pressed.
document.addEventListener("click", (event) => {
  const link = event.target.closest("#brand, #examples a, #about a.browse, a.tile, a.skip");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (link.matches(".skip")) byId("results").focus(); // the part of the address behind the # is of the query
  else go(parse(link.search, link.hash));
});
for (const name of ["popstate", "hashchange"]) {
  addEventListener(name, () => {
    if (address(query) === address(parse(location.search, location.hash))) return;
    results.remember();
    query = received(location);
    clean();
    render({ back: true });
  });
}

history.scrollRestoration = "manual";
clean();
render();
if (isStart(query) && matchMedia("(hover: hover)").matches) text.focus(); // a phone would open its keyboard
