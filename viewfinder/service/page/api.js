// The HTTP API: JSON in and out, the API key if there is one, errors as exceptions.

import { storage } from "./storage.js";

const KEY = "viewfinder-api-key";

// Kept for this tab only.
export const apiKey = {
  get: () => storage.get(KEY),
  set: (value) => storage.set(KEY, value),
  forget: () => storage.remove(KEY),
};

/** The index that the page's address names; without one the service asks its first. Another index is another page. */
export const index = new URLSearchParams(location.search).get("index") ?? "";

/** A path of an image or of the statistics, with the index. */
export const indexed = (path) => (index ? `${path}?${new URLSearchParams({ index })}` : path);

/** An error response of the service, or `unreachable`. */
export class ServiceError extends Error {
  constructor(status, { code, message, hint, request_id }, retryAfter) {
    super(message);
    Object.assign(this, { status, code, hint, retryAfter, requestId: request_id });
  }
}

/** The answer's JSON; a plain object as `body` is sent as JSON, form data as it is. */
export async function ask(path, { body, signal } = {}) {
  const response = await request(path, body, signal);
  return response.json();
}

/** The answer's bytes: for images, if a key must be sent. */
export async function download(path, signal) {
  const response = await request(path, undefined, signal);
  return response.blob();
}

/** The body with the index; in a batch each search has it. */
function withIndex(body) {
  if (!index || !body) return body;
  if (body instanceof FormData) {
    body.set("options", JSON.stringify({ ...JSON.parse(body.get("options")), index }));
    return body;
  }
  return body.searches ? { searches: body.searches.map((each) => ({ ...each, index })) } : { ...body, index };
}

async function request(path, body, signal) {
  const headers = {};
  body = withIndex(body);
  if (apiKey.get()) headers.authorization = `Bearer ${apiKey.get()}`;
  if (body && !(body instanceof FormData)) {
    headers["content-type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, { code: "unreachable", message: "" });
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const detail = answer?.error ?? { code: "http_error", message: `HTTP ${response.status}`, hint: "" };
  throw new ServiceError(response.status, detail, Number(response.headers.get("retry-after")) || 0);
}
