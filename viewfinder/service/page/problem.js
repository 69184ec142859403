// Errors, with an action that helps. The messages of the service are English.

import { apiKey } from "./api.js";
import { copyButton, el } from "./dom.js";
import { has, say } from "./words.js";

// The action for each error that a retry does not solve, as named in `actions`.
const REMEDIES = {
  invalid_image: ["choose", "choose_another"],
  body_too_large: ["choose", "choose_another"],
  invalid_filter: ["clear", "clear_filters"],
  no_relevance: ["relax", "show_less_relevant"],
  not_found: ["anew", "new_search"],
  invalid_request: ["anew", "new_search"],
  image_url_disabled: ["anew", "new_search"],
  forbidden_address: ["anew", "new_search"],
};

/**
 * The content of the problem panel; `actions` has `again()`, `anew()`, `choose()` an image, `clear()` the filters and
 * `relax()` the minimum.
 */
export function explain(error, actions) {
  const title = el("h2", {}, summary(error));
  if (error.code === "unauthorized" || error.code === "forbidden") return [title, ...askForKey(error, actions.again)];
  if (error.code === "unreachable") return [title, el("p", {}, say("unreachable")), act("again", "try_again", actions)];
  // The decoder's message is a detail, so the hint comes first.
  const [message, hint] = error.code === "invalid_image" ? [error.hint, error.message] : [error.message, error.hint];
  const parts = [title, told("p", {}, message)];
  const command = /^(.*?:\s)((?:python|viewfinder) \S.*)$/.exec(hint ?? "");
  if (command) {
    parts.push(told("p", {}, command[1].trim()), el("p", { className: "command" }, el("code", {}, command[2]), copyButton(command[2])));
  } else if (hint) parts.push(told("p", { className: "hint" }, hint));
  parts.push(act(...(REMEDIES[error.code] ?? ["again", "try_again"]), actions));
  if (["rate_limited", "overloaded"].includes(error.code)) parts.push(el("p", { className: "hint" }, say("retry_in", { seconds: error.retryAfter })));
  if (error.requestId) parts.push(el("p", { className: "hint" }, say("request"), " ", el("code", {}, error.requestId)));
  return parts;
}

/** What an error is about, in the language of the page. */
export const summary = ({ code }) => say(has(`problem_${code}`) ? `problem_${code}` : "problem");

/** An element with a text of the service. */
export const told = (tag, properties, text) => el(tag, { lang: "en", ...properties }, text);

const act = (action, label, actions) =>
  el("p", { className: "actions" }, el("button", { type: "button", onclick: actions[action] }, say(label)));

function askForKey(error, again) {
  const name = say("api_key");
  const input = el("input", { type: "password", required: true, autocomplete: "off", "aria-label": name, placeholder: name });
  const submit = (event) => {
    event.preventDefault();
    apiKey.set(input.value.trim());
    again();
  };
  const refused = apiKey.get() ? told("p", { className: "warning" }, error.message) : null;
  return [
    refused,
    el("form", { className: "key", onsubmit: submit }, input, el("button", { type: "submit" }, say("use_key"))),
    el("p", { className: "hint" }, say("key_stays")),
  ].filter(Boolean);
}
