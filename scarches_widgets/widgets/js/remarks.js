/** What is to be said at an option or of a result: an error, a warning, a note. */
import { element } from "./common.js";

const LEVELS = {
  error: { icon: "✕", word: "Error" },
  warning: { icon: "▲", word: "Warning" },
  note: { icon: "ℹ", word: "Note" },
  ok: { icon: "✓", word: "OK" },
  lacks: { icon: "○", word: "Not yet" }, // something to choose from, not a fault
};

/** One remark as an element: icon, word, text. */
export function remarkElement({ level, text, more }, tag = "li") {
  const { icon, word } = LEVELS[level] ?? LEVELS.note;
  return element(tag, { class: `scaw-remark scaw-remark-${level}` },
    element("span", { class: "scaw-remark-icon", "aria-hidden": "true" }, icon),
    element("span", {}, element("strong", {}, `${word}: `), text, more ? element("span", { class: "scaw-soft" }, ` ${more}`) : null));
}

/** Show remarks in a list that is hidden while there are none. */
export function showRemarks(list, remarks) {
  list.replaceChildren(...remarks.map((one) => remarkElement(one)));
  list.hidden = !remarks.length;
}
