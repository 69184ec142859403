// The texts of the page in the language of its reader, and numbers and dates as that language writes them.

import english from "./english.js";
import chinese from "./chinese.js";

const TABLES = { en: english, zh: chinese };
const TAGS = { en: "en", zh: "zh-Hans" };
const known = (language) => Object.hasOwn(TABLES, language);
const base = (tag) => tag.split("-")[0].toLowerCase();

let language = "";
let locale = "en";

/** The language to speak: `wanted` if there is a table for it, else the first of the browser's that has one. */
export const choose = (wanted) => (known(wanted) ? wanted : (navigator.languages.map(base).find(known) ?? "en"));

/** The language that the page does not speak now. */
export const other = () => Object.keys(TABLES).find((each) => each !== language);

/** Speak a language from now on; false if it was spoken already. */
export function speak(wanted) {
  if (language === wanted) return false;
  language = wanted;
  locale = navigator.languages.find((tag) => base(tag) === wanted) ?? TAGS[wanted]; // 31 May or May 31
  document.documentElement.lang = TAGS[wanted];
  const fill = (name, set) => {
    for (const node of document.querySelectorAll(`[data-${name}]`)) set(node, say(node.getAttribute(`data-${name}`)));
  };
  fill("text", (node, text) => (node.textContent = text));
  fill("label", (node, text) => node.setAttribute("aria-label", text));
  fill("title", (node, text) => (node.title = text));
  fill("placeholder", (node, text) => (node.placeholder = text));
  return true;
}

export const has = (name) => Object.hasOwn(english, name);

/** The text `name`; `{place}` in it is `values.place`. A text with several forms has that of `values.count`. */
export const say = (name, values) => phrase(name, values).join("");

/** The same as a list, so that a value may be an element. */
export function phrase(name, values = {}) {
  const entry = TABLES[language][name];
  const text = typeof entry === "string" ? entry : (entry[new Intl.PluralRules(locale).select(values.count)] ?? entry.other);
  return text.split(/\{(\w+)\}/).map((part, index) => {
    if (index % 2 === 0) return part;
    return typeof values[part] === "number" ? number(values[part]) : values[part];
  });
}

export const number = (value, options) => new Intl.NumberFormat(locale, options).format(value);

/** 0.9512 is "95.12%". */
export const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 2 });

/** 1300000 is "1.3 MB". */
export function bytes(count) {
  const [unit, size, maximumFractionDigits] =
    count < 1e3 ? ["byte", 1, 0] : count < 1e6 ? ["kilobyte", 1e3, 0] : count < 1e9 ? ["megabyte", 1e6, 1] : ["gigabyte", 1e9, 2];
  return number(count / size, { style: "unit", unit, unitDisplay: unit === "byte" ? "long" : "short", maximumFractionDigits });
}

/** A date of the index as a day. In UTC, as filters compare days. */
export function day(text, dateStyle = "long") {
  const date = new Date(text);
  return isNaN(date) ? text : new Intl.DateTimeFormat(locale, { dateStyle, timeZone: "UTC" }).format(date);
}
