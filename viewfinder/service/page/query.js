// What is being looked for: its address, and the request that asks for it.

import { dataUrl } from "./uploads.js";

const EMPTY = { text: "", picture: "", like: [], unlike: [], filters: {}, target: "image", rank: "clip", open: "" };
const UNLIKE = -0.5; // a full -1 drives the query away from pictures altogether, towards nothing at all
const PAGE = 40;
const SAMPLE = 30;
const ANYTHING = "a picture"; // what stands in for a description while there is none

/** The query in an address's `?q=…&like=ID&unlike=ID&f=FIELD:VALUE&target=…&rank=…&picture=NAME&open=ID`. */
export function parse(search) {
  const given = new URLSearchParams(search);
  const filters = {};
  for (const each of given.getAll("f")) {
    const colon = each.indexOf(":");
    if (colon > 0) (filters[each.slice(0, colon)] ??= []).push(fromText(each.slice(colon + 1)));
  }
  const one = (name, among) => (among.includes(given.get(name)) ? given.get(name) : among[0]);
  return {
    text: given.get("q") ?? "",
    picture: given.get("picture") ?? "",
    like: given.getAll("like"),
    unlike: given.getAll("unlike"),
    filters,
    target: one("target", ["image", "caption", "both"]),
    rank: one("rank", ["clip", "words", "hybrid"]),
    open: given.get("open") ?? "",
  };
}

export function address(query) {
  const made = new URLSearchParams();
  if (query.text) made.set("q", query.text);
  if (query.picture) made.set("picture", query.picture);
  for (const side of ["like", "unlike"]) for (const id of query[side]) made.append(side, id);
  for (const [field, values] of Object.entries(query.filters))
    for (const value of values) made.append("f", `${field}:${toText(value)}`);
  for (const name of ["target", "rank", "open"]) if (query[name] !== EMPTY[name]) made.set(name, query[name]);
  return made.size ? `?${made}` : "./";
}

/** Two queries of one key have the same results: whichever picture is open. */
export const key = (query) => address({ ...query, open: "" });

/** Whether it says what to look for; filters alone do not. */
export const isAsked = (query) => Boolean(query.text || query.picture || query.like.length || query.unlike.length);

/** Whether nothing is looked for and nothing filtered: the start page. */
export const isStart = (query) => !isAsked(query) && !Object.keys(query.filters).length;

/** Words are looked for in captions; they say nothing about pictures. */
export const isWordy = (query) => Boolean(query.text && !query.picture && !query.like.length && !query.unlike.length);

/**
 * The filter of the query's chips, or null; `except` leaves a field's own chips out, to count its alternatives.
 * A picture has many tags, and chosen ones must all be there; it has one format: any of the chosen ones will do.
 */
export function filter(query, except) {
  const conditions = [];
  for (const [field, values] of Object.entries(query.filters)) {
    if (field === "tags") conditions.push(...values.map((value) => ({ tags: { eq: value } })));
    else if (field !== except) conditions.push({ [field]: values.length > 1 ? { in: values } : { eq: values[0] } });
  }
  return conditions.length ? { and: conditions } : null;
}

/** `[path, body]` of the search, for `ask`; `picture` is the query's as a blob. */
export async function request(query, picture, cursor) {
  const options = { limit: isStart(query) ? SAMPLE : PAGE };
  if (filter(query)) options.filter = filter(query);
  if (cursor) options.cursor = cursor;
  if (!isAsked(query)) return ["v1/search", { text: ANYTHING, ...options, ...(isStart(query) && { diversity: 0.7 }) }];
  if (isWordy(query) && query.rank !== "clip") options.rank = query.rank;
  if (query.target !== "image" && options.rank !== "words") options.target = query.target;

  const parts = [
    ...(query.text ? [{ text: query.text, weight: 1 }] : []),
    ...(picture ? [{ image: picture, weight: 1 }] : []),
    ...query.like.map((id) => ({ id, weight: 1 })),
    ...query.unlike.map((id) => ({ id, weight: UNLIKE })),
  ];
  if (parts.length === 1 && picture) {
    const form = new FormData();
    form.set("image", picture, query.picture);
    form.set("options", JSON.stringify(options));
    return ["v1/search/image", form];
  }
  for (const part of parts) if (part.image) part.image = await dataUrl(part.image);
  if (parts.length > 1 || parts[0].weight < 0) return ["v1/search", { queries: parts, ...options }];
  const { weight, ...only } = parts[0];
  return ["v1/search", { ...only, ...options }];
}

// Values keep their type in the address: 2024 is a number, "2024" a text, beach a text.
function toText(value) {
  return typeof value === "string" && fromText(value) === value ? value : JSON.stringify(value);
}

function fromText(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "number", "boolean"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}
