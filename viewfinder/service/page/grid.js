// The grid: rows of equal height, each image as wide as its aspect ratio, so that nothing moves when it loads.

import { el } from "./dom.js";
import { show } from "./images.js";

const SHAPES = [1.5, 1, 0.75, 1.33, 1, 1.78, 0.67, 1.5, 1, 1.33, 0.75, 1.5, 1.78, 1, 1.33, 0.8]; // of a skeleton
const MIN_RATIO = 0.45;
const MAX_RATIO = 3;

export const ratio = ({ width, height }) => (width > 0 && height > 0 ? width / height : 1);

/** The relevance as "97 %"; for a hit without a relevance, the score. */
export function grade({ score, relevance }) {
  if (typeof relevance !== "number") return score.toFixed(score < 10 ? 3 : 1);
  return `${Math.floor(relevance * 100)} %`;
}

/** The label of an image: its caption, or its file name. */
export const name = ({ caption, uri }) => caption || uri.split("/").at(-1);

export class Grid {
  /** `list` is the <ul>; `link(id)` the address of an image. */
  constructor(list, link) {
    this.list = list;
    this.link = link;
    this.hits = [];
    this.rowHeight = parseFloat(getComputedStyle(list).getPropertyValue("--row")) || 220;
    list.addEventListener("keydown", (event) => this.#move(event));
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
    this.hits = [];
    this.list.classList.remove("waiting");
    this.list.replaceChildren();
  }

  append(hits, { graded = true } = {}) {
    const first = this.hits.length === 0;
    const known = new Set(this.hits.map(({ id }) => id));
    const added = hits.filter(({ id }) => !known.has(id));
    this.hits.push(...added);
    this.list.append(...added.map((hit) => this.#tile(hit, graded)));
    if (first) this.#links()[0]?.setAttribute("tabindex", "0");
  }

  /** Focus an image, if it is in the grid. */
  focus(id) {
    const link = this.#links()[this.hits.findIndex((hit) => hit.id === id)];
    link?.focus({ preventScroll: true });
    link?.scrollIntoView({ block: "nearest" });
  }

  #tile(hit, graded) {
    const shape = Math.min(MAX_RATIO, Math.max(MIN_RATIO, ratio(hit)));
    const img = el("img", { alt: "", draggable: false });
    const frame = el("span", { className: "frame" }, img);
    const link = el(
      "a",
      { className: "tile", href: this.link(hit.id), tabIndex: -1, title: hit.caption ?? "" },
      frame,
      el(
        "span",
        { className: "line" },
        el("span", { className: hit.caption ? "caption" : "caption plain", dir: "auto" }, name(hit)),
        graded ? el("span", { className: "grade" }, el("span", { className: "unseen" }, "score "), grade(hit)) : null,
      ),
    );
    show(img, hit.id, shape * this.rowHeight * 1.25, { lazy: true }).then((shown) => {
      frame.classList.add(shown ? "shown" : "lost");
    });
    return item(shape, link);
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

  #move(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const links = this.#links();
    const at = links.indexOf(document.activeElement);
    if (at < 0) return;
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
    const link = to();
    link?.focus({ preventScroll: true });
    link?.scrollIntoView({ block: "nearest" });
  }
}

function item(shape, child) {
  const made = el("li", {}, child);
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
