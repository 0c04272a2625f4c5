/** How the genes of a query fit a reference, in words and a meter. */
import { percent } from "./bars.js";
import { element } from "./common.js";
import { remarkElement } from "./remarks.js";

export const plural = (n, noun, many = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : many}`;

/** A list of names that opens on demand. */
function named(words, names, n) {
  if (!n) return null;
  return element("details", {}, element("summary", {}, words), element("p", { class: "scaw-names" }, names));
}

const FILLED = { few: "What is missing counts as zero; its share of the embedding is lost.", missing: "filled with zeros" };

/** @param words what becomes of those that are missing: `few`, a warning if there are many, and `missing`, a remark on them */
export function genesOf(overlap, words = FILLED) {
  const { noun } = overlap;
  const found = `${overlap.n_shared.toLocaleString("en")} of the reference's ${plural(overlap.n_reference, noun)} found (${percent(overlap.share)})`;
  return element("div", { class: "scaw-block" },
    element("h4", {}, noun === "gene" ? "Genes" : "Features"),
    element("meter", { min: 0, max: 1, value: overlap.share, "aria-label": found }),
    element("p", {}, found + (overlap.reordered ? "; put into the reference's order" : "")),
    overlap.enough ? null : remarkElement({ level: "warning", text: words.few }, "p"),
    named(`${plural(overlap.n_missing, noun)} missing, ${words.missing}`, overlap.missing, overlap.n_missing),
    named(`${plural(overlap.n_extra, noun)} more in the query, not used`, overlap.extra, overlap.n_extra),
    overlap.hint ? remarkElement({ level: "note", text: overlap.hint }, "p") : null);
}
