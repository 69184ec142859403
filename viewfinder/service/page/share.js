// A link to the search. What it contains is said beside it.

import { address, parse } from "./address.js";
import { byId, el, openDialog } from "./dom.js";
import { isFiltered } from "./query.js";
import { dataUrl, keepUrl, smallCopy, uploads } from "./uploads.js";
import { bytes, say } from "./words.js";

const COPY = "copy"; // the parameter behind the # with the small copy of an image

/** Show the dialog with the link of `query`. */
export async function share(query) {
  const image = uploads.get(query.image);
  const copy = image ? await smallCopy(image) : null;
  const small = copy ? await dataUrl(copy) : "";
  const [link, button, included] = ["share-link", "share-copy", "share-image"].map(byId);
  const draw = () => {
    link.value = new URL(address({ ...query, open: "" }), location.href).href;
    if (copy && included.checked) link.value += `${link.value.includes("#") ? "&" : "#"}${new URLSearchParams([[COPY, small]])}`;
    byId("share-contents").replaceChildren(...contents(query, copy, included.checked).map((text) => el("li", {}, text)));
  };
  byId("share-include").hidden = !copy;
  byId("share-size").textContent = copy ? say("share_include", { size: bytes(copy.size) }) : "";
  included.checked = true;
  included.onchange = draw;
  button.hidden = !navigator.clipboard;
  button.textContent = say("copy_link");
  button.onclick = async () => {
    await navigator.clipboard.writeText(link.value);
    button.textContent = say("copied");
  };
  draw();
  openDialog(byId("share"));
  link.select();
}

/** The query of an address; the small copy of an image that came with it is kept like an image that was chosen here. */
export function received({ search, hash }) {
  const query = parse(search, hash);
  const copy = new URLSearchParams(hash.slice(1)).get(COPY);
  if (!copy?.startsWith("data:image/") || !query.image) return query;
  try {
    return { ...query, image: keepUrl(query.image, copy) };
  } catch {
    return query; // cut on its way: the page says that the image is not available
  }
}

/** What the link of a query contains, as sentences. */
function contents(query, copy, included) {
  const searched = Boolean(query.text || query.without || query.like.length || query.unlike.length);
  return [
    searched ? say("share_query") : null,
    query.url ? say("share_url") : null,
    isFiltered(query) ? say("share_filters") : null,
    query.image ? say(copy && included ? "share_with_image" : "share_without_image", { name: query.image }) : null,
    say("share_options"),
    say("share_never"),
  ].filter(Boolean);
}
