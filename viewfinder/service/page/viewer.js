// The viewer: one large image with its metadata.

import { byId, copyButton, el, visible } from "./dom.js";
import { titleOf, valueOf } from "./fields.js";
import { grade, name, ratio } from "./grid.js";
import { linkOriginal, show } from "./images.js";
import { bytes, day, number, say } from "./words.js";

const SWIPE = 60; // pixels

export class Viewer {
  /** `on` has `step(±1)`, `close()`, `like(id)`, `unlike(id)`, `tag(value)`, `select(hit, {on})` and `isSelected(id)`. */
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
    byId("v-select").onclick = () => on.select(this.hit, { on: !on.isSelected(this.hit.id) });
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // the address decides which image is open
      on.close();
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) on.step(step);
      if (event.key === "x") byId("v-select").click();
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
    byId("v-unlike").title = comparable ? "" : say("search_first");
    this.mark();
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

  /** Say whether the image is selected. */
  mark() {
    if (this.hit) byId("v-select").setAttribute("aria-pressed", String(this.on.isSelected(this.hit.id)));
  }

  /** Show the same in the language that is spoken now. */
  translate() {
    if (this.hit) byId("v-data").replaceChildren(...this.#data(this.hit));
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
    const row = (title, ...content) => rows.push(el("div", {}, el("dt", { dir: "auto" }, title), el("dd", { dir: "auto" }, ...content)));
    if (typeof hit.score === "number") {
      if (typeof hit.relevance === "number") row(say("relevance"), grade(hit), el("small", {}, say("relevance_is")));
      row(say("score"), number(hit.score, { minimumFractionDigits: 4, maximumFractionDigits: 4 }));
    }
    if (payload.tags?.length) {
      const chip = (tag) =>
        el("button", { type: "button", className: "chip", title: visible(tag), onclick: () => this.on.tag(tag) }, el("span", { className: "value", dir: "auto" }, visible(tag)));
      row(titleOf("tags"), el("span", { className: "chips" }, ...payload.tags.map(chip)));
    }
    for (const [field, values] of flat(payload.meta ?? {}, "meta.")) row(titleOf(field), values.map((value) => valueOf(field, value)).join(", "));
    const kind = [
      hit.width && hit.height ? `${hit.width} × ${hit.height}` : null,
      payload.format?.toUpperCase(),
      payload.size > 0 ? bytes(payload.size) : null,
    ].filter(Boolean);
    if (kind.length) row(say("image"), kind.join(" · "));
    if (payload.last_modified) row(titleOf("last_modified"), day(payload.last_modified));
    row(say("where"), el("span", { className: "uri" }, visible(hit.uri)), " ", copyButton(hit.uri) ?? "");
    return rows;
  }
}

/** The fields of the captions file with their values, nested names joined by dots. */
function flat(found, prefix) {
  return Object.entries(found).flatMap(([name, value]) => {
    if (value === null || value === "") return [];
    if (typeof value === "object" && !Array.isArray(value)) return flat(value, `${prefix}${name}.`);
    return [[prefix + name, [value].flat()]];
  });
}
