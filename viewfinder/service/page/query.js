// What a query means: which options it can have, and its request.

import { dataUrl } from "./uploads.js";

const UNLIKE = -0.5; // -1 would move the query away from all images
const PAGE = 40;
const GROUPS = 12; // of a page
const GROUP_SIZE = 8;
const SAMPLE = 30;
const NEWEST = "-last_modified"; // the order of images without a description
const MIN_SORTED = "0.95"; // sorted hits need a minimum: every image has a place among the hits
const ANYTHING = "a photo"; // the text of the sample on the start page

/** True if the query has a text or an image; filters do not count. */
export const hasContent = (query) => Boolean(query.text || query.without || imagesOf(query).length || query.unlike.length);

/** True if the query leaves images out by their fields. */
export const isFiltered = (query) => Boolean(query.filters.size || query.ranges.size || query.excluded.length);

export const UNFILTERED = { filters: new Map(), ranges: new Map(), excluded: [] };

/** True for the start page: no text, image, filter or order. */
export const isStart = (query) => !hasContent(query) && !isFiltered(query) && !query.sort;

/** True for a query of one text alone, which can also be searched by words. */
export const isWordy = (query) => Boolean(query.text) && !imagesOf(query).length && !hasMinus(query);

/** True if hits have a relevance: those of one text or image, compared by the model. */
export function isGraded(query) {
  const parts = imagesOf(query).length + (query.text ? 1 : 0);
  return parts === 1 && !hasMinus(query) && !(isWordy(query) && query.rank === "words");
}

/** True if the hits can be ordered by a field. */
export function isSortable(query) {
  if (!hasContent(query)) return true;
  if (query.group) return false;
  return isWordy(query) && query.rank !== "clip" ? query.rank === "words" : isGraded(query);
}

/** The order of the hits as the API names it, "" for the best first. */
export function order(query) {
  if (!hasContent(query)) return query.sort || NEWEST;
  return isSortable(query) ? query.sort : "";
}

/** The least relevance of the hits, "" for any. */
export const minimum = (query) => (isGraded(query) ? query.min || (order(query) && MIN_SORTED) : "");

/** The field that groups the hits, "" for none. */
export const grouping = (query) => (hasContent(query) ? query.group : "");

/** Which images are one hit: copies, similar ones, or "" for none. The groups of a field may share an image. */
export const collapsing = (query) => (grouping(query) ? "" : query.collapse);

/**
 * The filter of the query, or null; `except` omits the chips of a field, to count its other values.
 * An image has many tags, so all chosen tags must match; it has one format, so any of the chosen formats matches.
 */
export function filter(query, except) {
  const conditions = [];
  for (const [field, values] of query.filters) {
    if (field === "tags") conditions.push(...values.map((value) => ({ tags: { eq: value } })));
    else if (field !== except) conditions.push({ [field]: values.length > 1 ? { in: values } : { eq: values[0] } });
  }
  for (const [field, bounds] of query.ranges) conditions.push({ [field]: bounds });
  if (query.excluded.length) conditions.push({ not: { uri: { in: query.excluded } } });
  return conditions.length ? { and: conditions } : null;
}

/** `[path, body]` of the search, for `ask`; `image` is the query's image as a blob. */
export async function request(query, image, cursor) {
  const options = { limit: isStart(query) ? SAMPLE : PAGE };
  if (filter(query)) options.filter = filter(query);
  if (cursor) options.cursor = cursor;
  if (isStart(query)) return ["v1/search", { text: ANYTHING, ...options, diversity: 0.7 }];
  if (collapsing(query)) options.collapse = collapsing(query);
  if (order(query)) options.order_by = order(query);
  if (minimum(query)) options.min_relevance = numberOrText(minimum(query));
  if (!hasContent(query)) return ["v1/search", options];
  if (grouping(query)) Object.assign(options, { group_by: grouping(query), group_size: GROUP_SIZE, limit: GROUPS });
  if (isWordy(query) && query.rank !== "clip") options.rank = query.rank;
  if (query.target !== "image" && options.rank !== "words") options.target = query.target;

  const parts = partsOf(query, image);
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

function partsOf(query, image) {
  const words = query.without.split(/[,;，；、]/).map((each) => each.trim()).filter(Boolean);
  return [
    ...(query.text ? [{ text: query.text, weight: 1 }] : []),
    ...(image ? [{ image, weight: 1 }] : []),
    ...(query.url ? [{ image_url: query.url, weight: 1 }] : []),
    ...query.like.map((id) => ({ id, weight: 1 })),
    ...query.unlike.map((id) => ({ id, weight: UNLIKE })),
    // Together as much as one: the vectors of texts are so alike that several would move the query away from all images.
    ...words.map((text) => ({ text, weight: UNLIKE / words.length })),
  ];
}

const imagesOf = (query) => [query.image, query.url, ...query.like].filter(Boolean);
const hasMinus = (query) => Boolean(query.without || query.unlike.length);

// What is no number is refused by the service, with the reason.
const numberOrText = (text) => (Number.isNaN(Number(text)) ? text : Number(text));
