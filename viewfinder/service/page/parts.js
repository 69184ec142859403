// The images of a query, as chips that can be switched between more and less, and removed.

import { byId, el, icon } from "./dom.js";
import { show } from "./images.js";
import { uploads } from "./uploads.js";

const SIDES = [
  ["like", "unlike", "plus", "more like this", "Look for less like this instead"],
  ["unlike", "like", "minus", "less like this", "Look for more like this instead"],
];

/** Draw the chips of `query`; `go(changes)` changes it. */
export function drawParts(query, go) {
  const items = [];
  if (query.image) {
    const remove = button("close", "Remove this image", () => go({ image: "" }));
    items.push(el("li", {}, preview(uploads.get(query.image)), el("span", {}, query.image), remove));
  }
  for (const [side, other, sign, label, turn] of SIDES) {
    for (const id of query[side]) {
      const img = el("img", { alt: "" });
      show(img, id, 48).then((shown) => shown || img.replaceWith(icon("image")));
      const rest = query[side].filter((each) => each !== id);
      items.push(
        el(
          "li",
          { className: sign },
          img,
          el("span", {}, label),
          button(sign, turn, () => go({ [side]: rest, [other]: [...query[other], id] })),
          button("close", `Remove “${label}”`, () => go({ [side]: rest })),
        ),
      );
    }
  }
  byId("parts").replaceChildren(...items);
  byId("parts").hidden = !items.length;
}

function preview(blob) {
  if (!blob) return icon("image");
  const img = el("img", { alt: "", src: URL.createObjectURL(blob) });
  img.onload = () => URL.revokeObjectURL(img.src);
  img.onerror = () => {
    img.onload();
    img.replaceWith(icon("image")); // this browser cannot decode it; the service may
  };
  return img;
}

function button(name, label, onclick) {
  return el("button", { type: "button", className: "quiet", "aria-label": label, title: label, onclick }, icon(name));
}
