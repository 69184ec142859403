// Lists of images as files. The CSV can be a manifest of `viewfinder index`.

const COLUMNS = ["uri", "id", "caption", "width", "height", "score", "relevance"];

export const toJson = (hits) => `${JSON.stringify(hits.map(row), null, 2)}\n`;

/** CSV as in RFC 4180; the byte order mark tells Excel that it is UTF-8. */
export const toCsv = (hits) => `\ufeff${[COLUMNS, ...hits.map((hit) => Object.values(row(hit)))].map(line).join("")}`;

const row = (hit) => Object.fromEntries(COLUMNS.map((name) => [name, hit[name] ?? null]));

const line = (cells) => `${cells.map(cell).join(",")}\r\n`;

function cell(value) {
  if (typeof value === "number") return String(value);
  // A spreadsheet runs a text that begins like a formula. No URI does.
  const text = /^\s*[=+\-@\t\r＝＋－＠]/.test(value ?? "") ? `'${value}` : (value ?? "");
  return /[",\r\n;\t]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Let the browser save a text as a file. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
