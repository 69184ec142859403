// DOM helpers. Text is never parsed as HTML.

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

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** A copy button; null if the browser forbids copying (plain http). */
export function copyButton(text) {
  if (!navigator.clipboard) return null;
  const copy = async ({ target }) => {
    await navigator.clipboard.writeText(text);
    target.textContent = "Copied";
    setTimeout(() => (target.textContent = "Copy"), 1500);
  };
  return el("button", { type: "button", className: "link", onclick: copy }, "Copy");
}
