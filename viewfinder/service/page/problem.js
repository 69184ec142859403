// Errors, with an action that helps.

import { apiKey } from "./api.js";
import { copyButton, el } from "./dom.js";

const TITLES = {
  no_index: "There is nothing to search yet",
  not_ready: "There is nothing to search yet",
  unauthorized: "This service needs an API key",
  forbidden: "This key is not allowed to search",
  unreachable: "The service cannot be reached",
  rate_limited: "Too many requests",
  overloaded: "The service is busy",
  store_unavailable: "The index cannot be reached",
  timeout: "The request took too long",
  invalid_image: "This image cannot be read",
  invalid_filter: "These filters are not valid for this index",
  body_too_large: "This image is too large",
  not_found: "This image is not in the index",
  invalid_request: "This search is not valid",
};

// The action for each error that a retry does not solve, as named in `actions`.
const REMEDIES = {
  invalid_image: ["choose", "Choose another image"],
  body_too_large: ["choose", "Choose another image"],
  invalid_filter: ["clear", "Clear the filters"],
  not_found: ["anew", "New search"],
  invalid_request: ["anew", "New search"],
};

/** The content of the problem panel; `actions` has `again()`, `anew()`, `choose()` an image and `clear()` the filters. */
export function explain(error, actions) {
  const title = el("h2", {}, TITLES[error.code] ?? "Something went wrong");
  if (error.code === "unauthorized" || error.code === "forbidden") return [title, ...askForKey(error, actions.again)];
  // The decoder's message is a detail, so the hint comes first.
  const [message, hint] = error.code === "invalid_image" ? [error.hint, error.message] : [error.message, error.hint];
  const parts = [title, el("p", {}, message)];
  const command = /^(.*?:\s)((?:python|viewfinder) \S.*)$/.exec(hint ?? "");
  if (command) {
    parts.push(el("p", {}, command[1].trim()), el("p", { className: "command" }, el("code", {}, command[2]), copyButton(command[2])));
  } else if (hint) parts.push(el("p", { className: "hint" }, hint));
  const [action, label] = REMEDIES[error.code] ?? ["again", "Try again"];
  parts.push(el("p", { className: "actions" }, el("button", { type: "button", onclick: actions[action] }, label)));
  if (["rate_limited", "overloaded"].includes(error.code)) parts.push(el("p", { className: "hint" }, `Retry in ${error.retryAfter} s.`));
  if (error.requestId) parts.push(el("p", { className: "hint" }, "Request ", el("code", {}, error.requestId)));
  return parts;
}

function askForKey(error, again) {
  const input = el("input", { type: "password", required: true, autocomplete: "off", "aria-label": "API key", placeholder: "API key" });
  const submit = (event) => {
    event.preventDefault();
    apiKey.set(input.value.trim());
    again();
  };
  const refused = apiKey.get() ? el("p", { className: "warning" }, error.message) : null;
  return [
    refused,
    el("form", { className: "key", onsubmit: submit }, input, el("button", { type: "submit" }, "Use this key")),
    el("p", { className: "hint" }, "It is kept in this tab until you close it, and sent to this service only."),
  ].filter(Boolean);
}
