// DOM helpers. Text is never parsed as HTML.

import { say } from "./words.js";

/** An element; `properties` are DOM properties, attributes or `on` + event; children are nodes or texts. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const byId = (id) => document.getElementById(id);

/** A name with its control and direction characters written out, so that it cannot look like another name. */
export const visible = (name) =>
  name.replace(/[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu, (each) => `\\u${each.charCodeAt().toString(16).padStart(4, "0")}`);

/** A copy button; null if the browser forbids copying (plain http). */
export function copyButton(text) {
  if (!navigator.clipboard) return null;
  const copy = async ({ target }) => {
    await navigator.clipboard.writeText(text);
    target.textContent = say("copied");
    setTimeout(() => (target.textContent = say("copy")), 1500);
  };
  return el("button", { type: "button", className: "link", onclick: copy }, say("copy"));
}

/** Open a dialog of the page, which its close button, Escape or a click beside it closes. */
export function openDialog(dialog) {
  dialog.querySelector(".close").onclick = () => dialog.close();
  dialog.onclick = ({ target }) => {
    if (target === dialog) dialog.close();
  };
  dialog.showModal();
}
