// The grid: rows of equal height, each image as wide as its aspect ratio, so that nothing moves when it loads.

import { el, visible } from "./dom.js";
import { show } from "./images.js";
import { similarButton } from "./similar.js";
import { percent, say } from "./words.js";

const SHAPES = [1.5, 1, 0.75, 1.33, 1, 1.78, 0.67, 1.5, 1, 1.33, 0.75, 1.5, 1.78, 1, 1.33, 0.8]; // of a skeleton
const MIN_RATIO = 0.45;
const MAX_RATIO = 3;

export const ratio = ({ width, height }) => (width > 0 && height > 0 ? width / height : 1);

/** The relevance as "97%"; for a hit without a relevance, the score. */
export function grade({ score, relevance }) {
  if (typeof relevance !== "number") return score.toFixed(score < 10 ? 3 : 1);
  return percent(Math.floor(relevance * 100) / 100);
}

/** The label of an image: its caption, or its file name. */
export const name = ({ caption, uri }) => caption || visible(uri.split("/").at(-1));

export class Grid {
  /**
   * `list` is the <ul>; `link(id)` the address of an image, `select(hit, {extend, on})` called when it is selected by its
   * checkbox or a key, `isSelected(id)` true if it is.
   */
  constructor(list, { link, select, isSelected }) {
    Object.assign(this, { list, link, select, isSelected, hits: new Map() });
    this.rowHeight = parseFloat(getComputedStyle(list).getPropertyValue("--row")) || 220;
    list.addEventListener("keydown", (event) => this.#press(event));
    list.addEventListener("click", (event) => this.#click(event), { capture: true });
    list.addEventListener("focusin", ({ target }) => this.#moveTabStop(target));
  }

  /** Show grey placeholders while results are loading. */
  wait() {
    this.clear();
    const part = (className, ...children) => el("span", { className }, ...children);
    this.list.append(...SHAPES.map((shape) => item(shape, part("tile", part("frame"), part("line")))));
    this.list.classList.add("waiting");
  }

  clear() {
    this.hits.clear();
    this.list.classList.remove("waiting");
    this.list.replaceChildren();
  }

  /** Append hits, below `heading` if there is one. An image may be in several groups, but only once among the others. */
  append(hits, { graded = true, heading } = {}) {
    const first = this.hits.size === 0;
    if (heading) this.list.append(el("li", { className: "fill", "aria-hidden": "true" }), el("li", { className: "heading" }, ...heading));
    for (const hit of hits) {
      if (!heading && this.hits.has(hit.id)) continue;
      this.hits.set(hit.id, hit);
      this.list.append(this.#tile(hit, graded));
    }
    if (first) this.#links()[0]?.setAttribute("tabindex", "0");
  }

  /** Focus an image, if it is in the grid; without an id the one that was focused last. */
  focus(id) {
    const stop = '[tabindex="0"]';
    focusOn(this.#links().find((link) => (id ? link.dataset.id === id : link.matches(stop))));
  }

  /** Check the boxes of the selected images. */
  mark() {
    for (const box of this.list.querySelectorAll(".check")) box.checked = this.isSelected(box.dataset.id);
  }

  #tile(hit, graded) {
    const shape = Math.min(MAX_RATIO, Math.max(MIN_RATIO, ratio(hit)));
    const img = el("img", { alt: "", draggable: false });
    const frame = el("span", { className: "frame" }, img);
    const line = el(
      "span",
      { className: "line" },
      el("span", { className: hit.caption ? "caption" : "caption plain", dir: "auto" }, name(hit)),
      graded ? el("span", { className: "grade" }, el("span", { className: "unseen" }, say("score"), " "), grade(hit)) : null,
    );
    const link = el("a", { className: "tile", href: this.link(hit.id), tabIndex: -1, title: hit.caption ?? "" }, frame, line);
    const check = el("input", { type: "checkbox", className: "check", tabIndex: -1, checked: this.isSelected(hit.id) });
    check.setAttribute("aria-label", say("select_one", { name: name(hit) }));
    link.dataset.id = check.dataset.id = hit.id;
    show(img, hit.id, shape * this.rowHeight * 1.25, { lazy: true }).then((shown) => {
      frame.classList.add(shown ? "shown" : "lost");
      if (!shown) frame.dataset.lost = say("lost");
    });
    const behind = (other) => {
      this.hits.set(other.id, other);
      return this.#tile(other, false);
    };
    return item(shape, link, check, similarButton(hit, behind));
  }

  #links() {
    return [...this.list.querySelectorAll("a.tile")];
  }

  /** Only the image that was focused last is in the tab order. */
  #moveTabStop(target) {
    if (!target.matches("a.tile")) return;
    this.list.querySelector('a.tile[tabindex="0"]')?.setAttribute("tabindex", "-1");
    target.setAttribute("tabindex", "0");
  }

  /** A checkbox selects its image; so does a click with Shift, from the last selected image on. */
  #click(event) {
    const { target, shiftKey } = event;
    const box = target.closest(".check");
    const link = target.closest("a.tile");
    if (box) this.select(this.hits.get(box.dataset.id), { extend: shiftKey, on: box.checked });
    else if (link && shiftKey) {
      event.preventDefault(); // a browser opens a window
      event.stopPropagation();
      this.select(this.hits.get(link.dataset.id), { extend: true, on: true });
    }
  }

  #press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const links = this.#links();
    const at = links.indexOf(document.activeElement);
    if (at < 0) return;
    if (event.key.toLowerCase() === "x") {
      const { id } = links[at].dataset;
      this.select(this.hits.get(id), { extend: event.shiftKey, on: event.shiftKey || !this.isSelected(id) });
      return;
    }
    const to = {
      ArrowLeft: () => links[at - 1],
      ArrowRight: () => links[at + 1],
      ArrowUp: () => nearestRow(links, at, -1),
      ArrowDown: () => nearestRow(links, at, 1),
      Home: () => links[0],
      End: () => links.at(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    focusOn(to());
  }
}

function focusOn(link) {
  link?.focus({ preventScroll: true });
  link?.scrollIntoView({ block: "nearest" });
}

function item(shape, ...children) {
  const made = el("li", {}, ...children);
  made.style.setProperty("--ratio", shape.toFixed(4));
  return made;
}

/** The image of the next row up or down whose centre is nearest. */
function nearestRow(links, at, step) {
  const middle = (box) => box.left + box.width / 2;
  const from = links[at].getBoundingClientRect();
  let top = null;
  let best;
  let minimum = Infinity;
  for (let index = at + step; links[index]; index += step) {
    const box = links[index].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 2) continue;
    if (top !== null && Math.abs(box.top - top) > 2) break;
    top = box.top;
    const distance = Math.abs(middle(box) - middle(from));
    if (distance < minimum) [minimum, best] = [distance, links[index]];
  }
  return best;
}
