// The selected images: they stay selected through later searches, until the page is left.

import { byId } from "./dom.js";
import { save, toCsv, toJson } from "./export.js";
import { say } from "./words.js";

export class Selection {
  /** `on` has `hits()`, those on the page, `changed()`, and `exclude(hits)`. */
  constructor(on) {
    this.on = on;
    this.chosen = new Map();
    this.last = null;
    byId("select-all").onclick = () => this.#add(on.hits());
    byId("save-json").onclick = () => save("images.json", "application/json", toJson([...this.chosen.values()]));
    byId("save-csv").onclick = () => save("images.csv", "text/csv", toCsv([...this.chosen.values()]));
    byId("exclude").onclick = () => {
      const hits = [...this.chosen.values()];
      this.clear();
      on.exclude(hits);
    };
    byId("select-none").onclick = () => this.clear();
  }

  has = (id) => this.chosen.has(id);

  /** Select an image or not; `extend` selects all between the last one and this one. */
  select(hit, { extend = false, on = true } = {}) {
    const hits = this.on.hits();
    const [from, to] = [hits.findIndex(({ id }) => id === this.last), hits.findIndex(({ id }) => id === hit.id)];
    this.last = hit.id;
    if (extend && from >= 0 && to >= 0) return this.#add(hits.slice(Math.min(from, to), Math.max(from, to) + 1));
    if (on) return this.#add([hit]);
    this.chosen.delete(hit.id);
    this.draw();
  }

  clear() {
    this.chosen.clear();
    this.last = null;
    this.draw();
  }

  draw() {
    const count = this.chosen.size;
    document.body.classList.toggle("selecting", count > 0);
    byId("selection-acts").hidden = count === 0; // the count stays: what appears with its text is not read out
    byId("selected").textContent = count ? say("selected", { count }) : "";
    byId("select-all").textContent = say("select_all", { count: this.on.hits().length });
    this.on.changed();
  }

  #add(hits) {
    for (const hit of hits) this.chosen.set(hit.id, hit);
    this.draw();
  }
}
