// Thumbnails and originals of indexed images.

import { apiKey, download, indexed } from "./api.js";

// Only a few widths, so that caches have them.
const WIDTHS = [160, 320, 480, 640, 960, 1280, 1920];
const RETRIES_MS = [1500, 5000]; // a busy service refuses thumbnails for a short time

export const original = (id) => indexed(`v1/images/${encodeURIComponent(id)}/content`);

function thumbnail(id, width) {
  const needed = width * Math.min(window.devicePixelRatio || 1, 2);
  const path = original(id);
  return `${path}${path.includes("?") ? "&" : "?"}width=${WIDTHS.find((each) => each >= needed) ?? WIDTHS.at(-1)}`;
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.dispatchEvent(new Event("seen"));
    }
  },
  { rootMargin: "600px" },
);

/** Show image `id` in `img`, `width` CSS pixels wide; resolves to true if it was loaded. `lazy` waits until it is near. */
export async function show(img, id, width, { lazy = false } = {}) {
  const path = thumbnail(id, width);
  img.dataset.path = path;
  if (lazy && apiKey.get()) {
    await new Promise((resolve) => {
      img.addEventListener("seen", resolve, { once: true });
      seen.observe(img);
    });
  } else if (lazy) img.loading = "lazy";
  for (let attempt = 0; img.dataset.path === path; attempt++) {
    if (await load(img, path)) return true;
    if (attempt === RETRIES_MS.length) return false;
    await new Promise((resolve) => setTimeout(resolve, RETRIES_MS[attempt]));
  }
  return false; // replaced by another image
}

/** Load the source. An <img> cannot send a key, so with a key the image is fetched by script. */
async function load(img, path) {
  let source = path;
  if (apiKey.get()) {
    const blob = await download(path).catch(() => null);
    if (!blob) return false;
    source = URL.createObjectURL(blob);
  }
  if (img.dataset.path !== path) return false;
  const loaded = await new Promise((resolve) => {
    img.onload = () => resolve(true);
    img.onerror = () => resolve(false);
    img.src = source;
  });
  if (source !== path) URL.revokeObjectURL(source);
  return loaded;
}

/** A link to the original; with a key it is fetched on click. */
export function linkOriginal(link, id) {
  link.href = original(id);
  link.onclick = async (event) => {
    if (!apiKey.get()) return;
    event.preventDefault();
    const tab = window.open("", "_blank"); // opened during the click, or the browser blocks it
    const blob = await download(original(id)).catch(() => null);
    if (blob && tab) tab.location = URL.createObjectURL(blob);
    else tab?.close();
  };
}
