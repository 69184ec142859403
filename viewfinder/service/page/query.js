// The query: its form in the page's address, and its request.

import { dataUrl } from "./uploads.js";

const EMPTY = { text: "", image: "", like: [], unlike: [], filters: new Map(), target: "image", rank: "clip", sort: "", min: "", open: "" };
const UNLIKE = -0.5; // -1 would move the query away from all images
const PAGE = 40;
const SAMPLE = 30;
const NEWEST = "-last_modified"; // the order of images without a description
const MIN_SORTED = "0.95"; // sorted hits need a minimum: every image has a place among the hits
const ANYTHING = "a photo"; // the text of the sample on the start page

/**
 * The query in an address's `?q=…&like=ID&unlike=ID&f=FIELD:VALUE&target=…&rank=…&sort=-FIELD&min=0.95&image=NAME&open=ID`.
 * `filters` is a Map of lists: a field may have any name, `constructor` too.
 */
export function parse(search) {
  const given = new URLSearchParams(search);
  const filters = new Map();
  for (const each of given.getAll("f")) {
    const colon = each.indexOf(":");
    if (colon <= 0) continue;
    const [field, value] = [each.slice(0, colon), fromText(each.slice(colon + 1))];
    filters.set(field, [...new Set([...(filters.get(field) ?? []), value])]);
  }
  const one = (name, among) => (among.includes(given.get(name)) ? given.get(name) : among[0]);
  return {
    text: given.get("q") ?? "",
    image: given.get("image") ?? "",
    like: given.getAll("like"),
    unlike: given.getAll("unlike"),
    filters,
    target: one("target", ["image", "caption", "both"]),
    rank: one("rank", ["clip", "words", "hybrid"]),
    sort: given.get("sort") ?? "",
    min: /^(0(\.\d+)?|1(\.0+)?)$/.test(given.get("min")) ? given.get("min") : "",
    open: given.get("open") ?? "",
  };
}

export function address(query) {
  const made = new URLSearchParams();
  if (query.text) made.set("q", query.text);
  if (query.image) made.set("image", query.image);
  for (const side of ["like", "unlike"]) for (const id of query[side]) made.append(side, id);
  for (const [field, values] of query.filters)
    for (const value of values) made.append("f", `${field}:${toText(value)}`);
  for (const name of ["target", "rank", "sort", "min", "open"]) if (query[name] !== EMPTY[name]) made.set(name, query[name]);
  return made.size ? `?${made}` : "./";
}

/** Queries with the same key have the same results; the open image does not matter. */
export const key = (query) => address({ ...query, open: "" });

/** True if the query has a text or an image; filters do not count. */
export const hasContent = (query) => Boolean(query.text || query.image || query.like.length || query.unlike.length);

/** True for the start page: no text, image, filter or order. */
export const isStart = (query) => !hasContent(query) && !query.filters.size && !query.sort;

/** True for a query of text alone, which can also be searched by words. */
export const isWordy = (query) => Boolean(query.text && !query.image && !query.like.length && !query.unlike.length);

/** True if hits have a relevance: those of one text or image, compared by the model. */
export function isGraded(query) {
  const parts = [query.text, query.image, ...query.like].filter(Boolean).length;
  return parts === 1 && !query.unlike.length && !(isWordy(query) && query.rank === "words");
}

/** True if the hits can be ordered by a field. */
export function isSortable(query) {
  if (!hasContent(query)) return true;
  return isWordy(query) && query.rank !== "clip" ? query.rank === "words" : isGraded(query);
}

/** The order of the hits as the API names it, "" for the best first. */
export function order(query) {
  if (!hasContent(query)) return query.sort || NEWEST;
  return isSortable(query) ? query.sort : "";
}

/** The least relevance of the hits, "" for any. */
export const minimum = (query) => (isGraded(query) ? query.min || (order(query) && MIN_SORTED) : "");

/**
 * The filter of the query's chips, or null; `except` omits the chips of a field, to count its other values.
 * An image has many tags, so all chosen tags must match; it has one format, so any of the chosen formats matches.
 */
export function filter(query, except) {
  const conditions = [];
  for (const [field, values] of query.filters) {
    if (field === "tags") conditions.push(...values.map((value) => ({ tags: { eq: value } })));
    else if (field !== except) conditions.push({ [field]: values.length > 1 ? { in: values } : { eq: values[0] } });
  }
  return conditions.length ? { and: conditions } : null;
}

/** `[path, body]` of the search, for `ask`; `image` is the query's image as a blob. */
export async function request(query, image, cursor) {
  const options = { limit: isStart(query) ? SAMPLE : PAGE };
  if (filter(query)) options.filter = filter(query);
  if (cursor) options.cursor = cursor;
  if (isStart(query)) return ["v1/search", { text: ANYTHING, ...options, diversity: 0.7 }];
  if (order(query)) options.order_by = order(query);
  if (minimum(query)) options.min_relevance = Number(minimum(query));
  if (!hasContent(query)) return ["v1/search", options];
  if (isWordy(query) && query.rank !== "clip") options.rank = query.rank;
  if (query.target !== "image" && options.rank !== "words") options.target = query.target;

  const parts = [
    ...(query.text ? [{ text: query.text, weight: 1 }] : []),
    ...(image ? [{ image, weight: 1 }] : []),
    ...query.like.map((id) => ({ id, weight: 1 })),
    ...query.unlike.map((id) => ({ id, weight: UNLIKE })),
  ];
  if (parts.length === 1 && image) {
    const form = new FormData();
    form.set("image", image, query.image);
    form.set("options", JSON.stringify(options));
    return ["v1/search/image", form];
  }
  for (const part of parts) if (part.image) part.image = await dataUrl(part.image);
  if (parts.length > 1 || parts[0].weight < 0) return ["v1/search", { queries: parts, ...options }];
  const { weight, ...only } = parts[0];
  return ["v1/search", { ...only, ...options }];
}

// Values keep their type in the address: 2024 is a number, "2024" and beach are texts.
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
