// The storage of this tab. It survives a reload, unless the browser blocks site data: then it lasts as long as the page.

let tab = null;
try {
  tab = window.sessionStorage; // throws where site data is blocked
} catch {
  // kept in memory only
}
const memory = new Map(tab ? Object.entries(tab) : []);

export const storage = {
  get: (name) => memory.get(name) ?? "",
  entries: () => (tab ? Object.entries(tab) : [...memory]),

  /** Keep a text, for a reload only if there is room for it; true if it survives one. */
  set(name, text) {
    memory.set(name, text);
    try {
      tab?.setItem(name, text);
      return Boolean(tab);
    } catch {
      return false;
    }
  },

  remove(name) {
    memory.delete(name);
    tab?.removeItem(name);
  },
};
