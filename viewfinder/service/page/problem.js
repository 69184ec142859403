// What went wrong, in words that help, and with the thing to do about it.

import { apiKey } from "./api.js";
import { copyButton, el } from "./dom.js";

const TITLES = {
  no_index: "Nothing can be searched yet",
  not_ready: "Nothing can be searched yet",
  unauthorized: "This service asks for a key",
  forbidden: "This key may not search",
  unreachable: "The service cannot be reached",
  rate_limited: "That was a little too fast",
  overloaded: "The service is busy",
  store_unavailable: "The index cannot be reached",
  timeout: "That took too long",
  invalid_image: "This picture cannot be read",
  invalid_filter: "These filters do not fit this index",
  body_too_large: "This picture is too large",
  not_found: "This picture is not in the index",
  invalid_request: "This search cannot be made",
};

// What helps where asking the same again does not, by what is named in `actions`.
const REMEDIES = {
  invalid_image: ["choose", "Choose another picture"],
  body_too_large: ["choose", "Choose another picture"],
  invalid_filter: ["clear", "Clear the filters"],
  not_found: ["anew", "Start anew"],
  invalid_request: ["anew", "Start anew"],
};

/** The content of the problem panel; `actions` has `again()`, `anew()`, `choose()` a picture and `clear()` the filters. */
export function explain(error, actions) {
  const title = el("h2", {}, TITLES[error.code] ?? "Something went wrong");
  if (error.code === "unauthorized" || error.code === "forbidden") return [title, ...askForKey(error, actions.again)];
  // What a decoder says of a file's bytes is the smaller print.
  const [said, hint] = error.code === "invalid_image" ? [error.hint, error.message] : [error.message, error.hint];
  const parts = [title, el("p", {}, said)];
  const command = /^(.*?:\s)(python \S.*)$/.exec(hint ?? "");
  if (command) {
    parts.push(el("p", {}, command[1].trim()), el("p", { className: "command" }, el("code", {}, command[2]), copyButton(command[2])));
  } else if (hint) parts.push(el("p", { className: "hint" }, hint));
  const [action, label] = REMEDIES[error.code] ?? ["again", "Try again"];
  parts.push(el("p", { className: "actions" }, el("button", { type: "button", onclick: actions[action] }, label)));
  if (["rate_limited", "overloaded"].includes(error.code)) parts.push(el("p", { className: "hint" }, `It asks to wait ${error.retryAfter} s.`));
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
