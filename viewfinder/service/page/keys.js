// The keys of the whole page, and their help. Those of the grid and of the viewer are in their modules.

import { byId, el, openDialog } from "./dom.js";
import { say } from "./words.js";

const HELP = [
  [["/"], "key_search"],
  [["←", "→", "↑", "↓"], "key_move"],
  [["Enter"], "key_open"],
  [["x"], "key_select"],
  [["Shift", "x"], "key_extend"],
  [["Esc"], "key_close"],
  [["?"], "key_help"],
];

/** `on` has `search()`, which focuses the text, and `grid()`, which focuses an image. */
export function listenToKeys(on) {
  byId("help-open").onclick = showHelp;
  const acts = { "/": on.search, "?": showHelp, ArrowRight: on.grid, ArrowLeft: on.grid };
  addEventListener("keydown", (event) => {
    const { key, target, altKey, ctrlKey, metaKey } = event;
    if (!Object.hasOwn(acts, key) || altKey || ctrlKey || metaKey || document.querySelector("dialog[open]")) return;
    if (target.matches("input:not(.check), select, textarea") || (key.startsWith("Arrow") && target !== document.body)) return;
    event.preventDefault();
    acts[key]();
  });
}

function showHelp() {
  const rows = HELP.map(([keys, text]) =>
    el("div", {}, el("dt", {}, ...keys.map((key) => el("kbd", {}, key))), el("dd", {}, say(text))),
  );
  byId("help-keys").replaceChildren(...rows);
  openDialog(byId("help"));
}
