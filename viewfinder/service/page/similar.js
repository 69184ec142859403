// The images that a hit stands for: a button with their number, and the images behind the hit.

import { ask, indexed } from "./api.js";
import { el } from "./dom.js";
import { say } from "./words.js";

/** A button that shows these images behind the hit, and hides them again; null without any. `tile(hit)` makes a list item. */
export function similarButton(hit, tile) {
  if (!hit.collapsed) return null;
  const button = el("button", { type: "button", className: "similar", onclick: toggle }, say("similar", { count: hit.collapsed }));
  let shown = [];
  draw();
  return button;

  async function toggle() {
    if (shown.length) {
      for (const each of shown) each.remove();
      shown = [];
      return draw();
    }
    button.disabled = true;
    const read = ({ id }) => ask(indexed(`v1/images/${encodeURIComponent(id)}`)).catch(() => null); // deleted since
    const found = (await Promise.all(hit.similar.map(read))).filter(Boolean);
    button.disabled = false;
    const count = hit.collapsed - hit.similar.length;
    shown = [...found.map(tile), ...(count ? [el("li", { className: "more" }, say("similar_more", { count }))] : [])];
    for (const each of shown) each.classList.add("behind");
    button.closest("li")?.after(...shown);
    draw();
  }

  function draw() {
    button.setAttribute("aria-expanded", String(shown.length > 0));
    button.title = say(shown.length ? "similar_hide" : "similar_show");
  }
}
