// The user's images: chosen, dropped or pasted. They stay in this tab and are sent only with a search.

import { byId } from "./dom.js";
import { storage } from "./storage.js";

const MAX_SIDE = 1024; // pixels; models use fewer, and a phone's image is ten times as large
const KEPT = "viewfinder-image:";
const MAX_COPY = 3_000; // bytes; a third more in an address
const COPIES = [[224, 0.7], [224, 0.5], [192, 0.4], [160, 0.3], [128, 0.3], [96, 0.2]]; // longer side and quality

/** The images by their name in the address; they survive a reload of the tab. */
export const uploads = new Map(
  storage
    .entries()
    .filter(([name]) => name.startsWith(KEPT))
    .map(([name, url]) => [name.slice(KEPT.length), fromDataUrl(url)]),
);

export const chooseImage = () => byId("file").click();

/** Call `search(name)` for each image that is chosen, dropped or pasted. */
export function acceptImages(search) {
  const accept = async (files) => {
    const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
    if (file) search(await keepImage(file));
  };
  byId("choose").onclick = chooseImage;
  byId("file").onchange = async ({ target }) => {
    await accept(target.files);
    target.value = ""; // so that choosing the same file again is a change
  };
  addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    accept(event.clipboardData.files);
  });

  let over = 0; // a drag enters a child before it leaves the parent
  const acts = {
    dragenter: () => over++,
    dragover: () => {},
    dragleave: () => over--,
    drop: (event) => {
      over = 0;
      accept(event.dataTransfer.files);
    },
  };
  for (const [name, act] of Object.entries(acts)) {
    addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      act(event);
      byId("drop").hidden = over <= 0;
    });
  }
}

/** Keep a file under a unique name, and return it. */
async function keepImage(file) {
  const url = await dataUrl(await prepared(file)).catch(() => "data:,"); // a folder or a deleted file
  return keepUrl(file.name || "image", url);
}

/** Keep an image that is a `data:` URL; every pasted one is called image.png, so its name may change. */
export function keepUrl(given, url) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(given);
  let name = stem + (suffix ?? "");
  for (let count = 2; uploads.has(name); count++) name = `${stem} ${count}${suffix ?? ""}`;
  uploads.set(name, fromDataUrl(url));
  store(KEPT + name, url);
  return name;
}

/** Keep it for a reload, if necessary in place of earlier ones; an image that is too large is not kept. */
function store(name, url) {
  if (storage.set(name, url)) return;
  for (const [each] of storage.entries()) if (each.startsWith(KEPT)) storage.remove(each);
  storage.set(name, url);
}

/** The image to send: large ones are scaled down, which also removes the camera's metadata. */
async function prepared(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return file; // the service may be able to decode it
  return Math.max(bitmap.width, bitmap.height) > MAX_SIDE ? scaled(bitmap, MAX_SIDE, "image/jpeg", 0.92) : file;
}

/** The image in at most `MAX_COPY` bytes, for a link; null if this browser cannot decode it. */
export async function smallCopy(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return null;
  for (const [side, quality] of COPIES) {
    const made = await scaled(bitmap, side, "image/webp", quality);
    // Some browsers cannot write WebP, and then write PNG.
    const copy = made.type === "image/webp" ? made : await scaled(bitmap, side, "image/jpeg", quality);
    if (copy.size <= MAX_COPY) return copy;
  }
  return null;
}

function scaled(bitmap, side, type, quality) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // where a PNG is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type, quality });
}

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function fromDataUrl(url) {
  const [, type, content] = /^data:(.*?)(?:;base64)?,(.*)$/.exec(url);
  return new Blob([Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0))], { type });
}
