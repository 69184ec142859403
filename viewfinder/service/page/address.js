// The query in the page's address.
//
// ?index=NAME&q=TEXT&without=TEXT&image_url=URL&image=NAME&like=ID&unlike=ID&f=FIELD:VALUE&gte=FIELD:VALUE&lte=FIELD:VALUE
// &target=…&rank=…&collapse=…&sort=-FIELD&min=0.95&group=FIELD&open=ID&lang=zh#not=URI
//
// What may be long stands behind the #, which a browser does not send: servers refuse long addresses.

import { index } from "./api.js";

const SINGLE = { text: "q", without: "without", url: "image_url", image: "image", sort: "sort", min: "min", group: "group", open: "open", lang: "lang" };
const CHOICES = { target: ["image", "caption", "both"], rank: ["clip", "words", "hybrid"], collapse: ["", "exact", "near"] };
const BOUNDS = ["gte", "lte"];

/** The query in an address. `filters` and `ranges` are Maps: a field may have any name, `constructor` too. */
export function parse(search, hash = "") {
  const given = new URLSearchParams(search);
  const query = { like: given.getAll("like"), unlike: given.getAll("unlike"), filters: new Map(), ranges: new Map() };
  for (const [name, parameter] of Object.entries(SINGLE)) query[name] = given.get(parameter) ?? "";
  for (const [name, among] of Object.entries(CHOICES)) query[name] = among.includes(given.get(name)) ? given.get(name) : among[0];
  for (const [field, value] of pairs(given.getAll("f"))) {
    query.filters.set(field, [...new Set([...(query.filters.get(field) ?? []), value])]);
  }
  for (const bound of BOUNDS) {
    for (const [field, value] of pairs(given.getAll(bound))) query.ranges.set(field, { ...query.ranges.get(field), [bound]: value });
  }
  query.excluded = [...new Set(new URLSearchParams(hash.slice(1)).getAll("not"))];
  return query;
}

export function address(query) {
  const made = new URLSearchParams(index ? { index } : {});
  for (const name of ["text", "without", "url", "image"]) if (query[name]) made.set(SINGLE[name], query[name]);
  for (const side of ["like", "unlike"]) for (const id of query[side]) made.append(side, id);
  for (const [field, values] of query.filters) for (const value of values) made.append("f", pair(field, value));
  for (const [field, bounds] of query.ranges) {
    for (const bound of BOUNDS) if (bounds[bound] !== undefined) made.append(bound, pair(field, bounds[bound]));
  }
  for (const [name, [usual]] of Object.entries(CHOICES)) if (query[name] !== usual) made.set(name, query[name]);
  for (const name of ["sort", "min", "group", "open", "lang"]) if (query[name]) made.set(SINGLE[name], query[name]);
  const behind = new URLSearchParams(query.excluded.map((uri) => ["not", uri]));
  return (made.size ? `?${made}` : "./") + (behind.size ? `#${behind}` : "");
}

/** Queries with the same key have the same results; the open image and the language do not matter. */
export const key = (query) => address({ ...query, open: "", lang: "" });

/** A query for nothing yet, in the language of `query`. */
export const fresh = ({ lang }) => ({ ...parse(""), lang });

// The names of fields may have colons, too.
const pair = (field, value) => `${field.replaceAll("%", "%25").replaceAll(":", "%3A")}:${toText(value)}`;

function pairs(texts) {
  return texts
    .map((text) => [text, text.indexOf(":")])
    .filter(([, colon]) => colon > 0)
    .map(([text, colon]) => [text.slice(0, colon).replaceAll("%3A", ":").replaceAll("%25", "%"), fromText(text.slice(colon + 1))]);
}

// Values keep their type in the address: 2024 is a number, "2024" and beach are texts.
export function toText(value) {
  return typeof value === "string" && fromText(value) === value ? value : JSON.stringify(value);
}

export function fromText(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "number", "boolean"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}
