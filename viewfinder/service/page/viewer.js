// The viewer: one large image with its metadata.

import { byId, copyButton, el } from "./dom.js";
import { titleOf } from "./filters.js";
import { grade, name, ratio } from "./grid.js";
import { linkOriginal, show } from "./images.js";

const SWIPE = 60; // pixels

export class Viewer {
  /** `on` has `step(±1)`, `close()`, `like(id)`, `unlike(id)`, `tag(value)`. */
  constructor(on) {
    this.on = on;
    this.dialog = byId("viewer");
    this.img = byId("v-image");
    this.hit = null;
    byId("v-previous").onclick = () => on.step(-1);
    byId("v-next").onclick = () => on.step(1);
    byId("v-close").onclick = () => on.close();
    byId("v-like").onclick = () => on.like(this.hit.id);
    byId("v-unlike").onclick = () => on.unlike(this.hit.id);
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // the address decides which image is open
      on.close();
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) on.step(step);
    });
    let from = null;
    const stage = this.dialog.querySelector(".stage");
    stage.addEventListener("click", ({ target }) => target === stage && on.close());
    stage.addEventListener("touchstart", ({ touches }) => (from = touches.length === 1 ? touches[0].clientX : null), { passive: true });
    stage.addEventListener("touchend", ({ changedTouches }) => {
      const moved = from === null ? 0 : changedTouches[0].clientX - from;
      if (Math.abs(moved) > SWIPE && (window.visualViewport?.scale ?? 1) < 1.05) on.step(moved < 0 ? 1 : -1);
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Show a hit; `previous` and `next` are true if there are such hits, `comparable` enables "less like this". */
  show(hit, { previous, next, comparable }) {
    const fresh = this.hit?.id !== hit.id;
    this.hit = hit;
    byId("v-previous").disabled = !previous;
    byId("v-next").disabled = !next;
    byId("v-unlike").disabled = !comparable;
    byId("v-unlike").title = comparable ? "" : "Search for something first";
    if (fresh) this.#fill(hit);
    if (!this.isOpen) {
      this.dialog.showModal();
      byId("v-caption").focus({ preventScroll: true });
    }
  }

  close() {
    this.hit = null;
    this.img.removeAttribute("src");
    delete this.img.dataset.path;
    if (this.isOpen) this.dialog.close();
  }

  #fill(hit) {
    byId("v-caption").textContent = name(hit);
    this.img.alt = hit.caption ?? "";
    byId("v-lost").hidden = true;
    this.img.hidden = false;
    this.dialog.style.setProperty("--ratio", ratio(hit));
    this.dialog.style.setProperty("--width", hit.width || 2000);
    byId("v-data").replaceChildren(...this.#data(hit));
    linkOriginal(byId("v-original"), hit.id);
    this.dialog.querySelector(".data").scrollTop = 0;
    this.img.removeAttribute("src"); // otherwise the previous image would appear in the shape of this one
    this.#load(hit);
  }

  /** Show the small image, which the grid has loaded, then the large one. */
  async #load(hit) {
    const stage = this.img.parentElement.clientWidth || window.innerWidth;
    await show(this.img, hit.id, 320);
    if (this.hit !== hit) return;
    const shown = await show(this.img, hit.id, Math.min(stage, hit.width || stage));
    if (this.hit !== hit) return;
    this.img.hidden = !shown;
    byId("v-lost").hidden = shown;
  }

  #data(hit) {
    const { payload = {} } = hit;
    const rows = [];
    const row = (title, ...content) => rows.push(el("div", {}, el("dt", {}, title), el("dd", {}, ...content)));
    if (typeof hit.score === "number") {
      if (typeof hit.relevance === "number") row("Relevance", grade(hit), el("small", {}, "share of unrelated pairs with a lower score"));
      row("Score", hit.score.toFixed(4));
    }
    if (payload.tags?.length) {
      const chip = (tag) => el("button", { type: "button", className: "chip", onclick: () => this.on.tag(tag) }, tag);
      row("Tags", el("span", { className: "chips" }, ...payload.tags.map(chip)));
    }
    for (const [field, value] of Object.entries(flat(payload.meta ?? {}))) row(titleOf(field), value);
    const kind = [
      hit.width && hit.height ? `${hit.width} × ${hit.height}` : null,
      payload.format?.toUpperCase(),
      payload.size > 0 ? bytes(payload.size) : null,
    ].filter(Boolean);
    if (kind.length) row("Image", kind.join(" · "));
    if (payload.last_modified) row("Changed", day(payload.last_modified));
    row("Where", el("span", { className: "uri" }, hit.uri), " ", copyButton(hit.uri) ?? "");
    return rows;
  }
}

/** The fields of the captions file, nested names joined by dots, lists by commas. */
function flat(fields, prefix = "") {
  const found = {};
  for (const [field, value] of Object.entries(fields)) {
    if (Array.isArray(value)) found[prefix + field] = value.join(", ");
    else if (value !== null && typeof value === "object") Object.assign(found, flat(value, `${prefix}${field}.`));
    else if (value !== null && value !== "") found[prefix + field] = String(value);
  }
  return found;
}

function bytes(count) {
  const unit = count < 1e6 ? ["kilobyte", 1e3] : ["megabyte", 1e6];
  const digits = { maximumFractionDigits: count < 1e6 ? 0 : 1 };
  return (count / unit[1]).toLocaleString("en", { style: "unit", unit: unit[0], ...digits });
}

function day(text) {
  const date = new Date(text);
  return isNaN(date) ? text : date.toLocaleDateString("en", { dateStyle: "long" });
}
