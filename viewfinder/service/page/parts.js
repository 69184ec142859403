// The parts of a query beside its text: images, which can be switched between more and less, and the words to move away from.

import { byId, el, icon, visible } from "./dom.js";
import { show } from "./images.js";
import { uploads } from "./uploads.js";
import { say } from "./words.js";

const SIDES = [
  ["like", "unlike", "plus", "like", "turn_to_less"],
  ["unlike", "like", "minus", "unlike", "turn_to_more"],
];

/** Draw the parts of `query`; `go(changes)` changes it. */
export function drawParts(query, go) {
  const items = [];
  if (query.image) items.push(part(preview(uploads.get(query.image)), visible(query.image), remove("remove_image", () => go({ image: "" }))));
  if (query.url) items.push(part(icon("image"), visible(query.url), remove("remove_image", () => go({ url: "" }))));
  for (const [side, other, sign, label, turn] of SIDES) {
    for (const id of query[side]) {
      const img = el("img", { alt: "" });
      show(img, id, 48).then((shown) => shown || img.replaceWith(icon("image")));
      const rest = query[side].filter((each) => each !== id);
      const item = part(
        img,
        say(label),
        button(sign, say(turn), () => go({ [side]: rest, [other]: [...query[other], id] })),
        button("close", say("remove", { name: say(label) }), () => go({ [side]: rest })),
      );
      item.className = sign;
      items.push(item);
    }
  }
  if (query.without) {
    const item = part(icon("minus"), say("without", { words: query.without }), remove("remove_words", () => go({ without: "" })));
    item.className = "minus";
    items.push(item);
  }
  byId("parts").replaceChildren(...items);
  byId("parts").hidden = !items.length;
}

const part = (image, label, ...buttons) => el("li", {}, image, el("span", { dir: "auto", title: label }, label), ...buttons);

const remove = (label, onclick) => button("close", say(label), onclick);

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
