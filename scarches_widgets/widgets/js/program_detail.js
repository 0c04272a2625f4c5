/** The open gene program: how many of its genes there are, their loadings, and programs like it. */
import { nextOption } from "./cells.js";
import { breakable, button, element, follow, listen } from "./common.js";
import { barElement } from "./program_list.js";
import { coverageWords, decimals } from "./programs.js";

export function programDetail(model, signal, { renames }) {
  const node = element("section", { class: "scaw-programs-part scaw-detail", "aria-label": "Open program" });
  let enabled = true;
  let current = 0; // the gene that Tab leads to
  let shown = null; // the program on the page

  function geneTable(opened) {
    const largest = Math.max(0, ...opened.genes.map(({ weight }) => Math.abs(weight)));
    const rows = opened.genes.map(({ gene, weight, in_mask: inMask, here }, place) => element("tr", {},
      element("th", { scope: "row" }, here
        ? element("button", { type: "button", class: "scaw-term", "data-place": place, tabindex: place === current ? "0" : "-1", title: "Colour the cells by this gene" }, gene)
        : element("span", {}, gene, element("span", { class: "scaw-chip" }, "not in these cells")),
      inMask ? null : element("span", { class: "scaw-chip" }, opened.n_annotated ? "joined" : "learnt")),
      element("td", {}, element("span", { class: "scaw-value" }, barElement(weight, largest, true), element("span", {}, decimals(weight, true))))));
    const cut = opened.n_loaded > rows.length ? `The ${rows.length} largest of ${opened.n_loaded.toLocaleString("en")} loadings. ` : "";
    return element("div", { class: "scaw-table-host scaw-gene-list", role: "region", tabindex: "0", "aria-label": "Genes of the program" },
      element("table", { class: "scaw-program-table" },
        element("caption", { class: "scaw-hint", style: "text-align:left" }, `${cut}To the right: more of the gene where the program's latent is higher. A gene's name colours the cells.`),
        element("thead", {}, element("tr", {}, element("th", { scope: "col", class: "scaw-left" }, "Gene"), element("th", { scope: "col", class: "scaw-left" }, "Loading"))),
        element("tbody", {}, ...rows)));
  }

  function show() {
    const opened = model.get("opened");
    if (opened.i === undefined) {
      shown = null;
      node.replaceChildren(element("p", { class: "scaw-soft" }, "Choose a program to see its genes."));
      return;
    }
    if (renames.busy() && node.querySelector(".scaw-rename")) return;
    if (opened.i !== shown) current = Math.max(0, opened.genes.findIndex(({ here }) => here));
    shown = opened.i;
    const terms = model.get("terms");
    const rename = button("Rename", { title: "F2", "data-act": "rename", "aria-disabled": String(!enabled) });
    const name = element("h4", { class: "scaw-detail-name" }, ...breakable(terms[opened.i]));
    const head = element("div", { class: "scaw-detail-head" }, name, rename);
    const similar = opened.similar.length ? element("details", {}, element("summary", {}, "Programs with the same genes"),
      element("ul", { class: "scaw-similar" }, ...opened.similar.map(({ i, n }) => element("li", {},
        element("button", { type: "button", class: "scaw-term", "data-open": i }, ...breakable(terms[i])),
        element("span", { class: "scaw-soft" }, `${n} shared`))))) : null;
    const old = opened.old_name ? element("p", { class: "scaw-hint" }, `Called ${opened.old_name} before.`) : null;
    node.replaceChildren(head, ...[old, ...coverageWords(opened).map((text) => element("p", {}, text)),
      opened.genes.length ? geneTable(opened) : null, similar].filter(Boolean));
  }

  function rename() {
    const head = node.querySelector(".scaw-detail-head");
    if (!enabled || !head) return;
    renames.begin(head, model.get("opened").i, () => {
      show();
      node.querySelector("[data-act=rename]")?.focus();
    });
  }

  function focusOn(place) {
    node.querySelector(`[data-place="${current}"]`)?.setAttribute("tabindex", "-1");
    current = place;
    const one = node.querySelector(`[data-place="${place}"]`);
    one?.setAttribute("tabindex", "0");
    one?.focus();
  }

  listen(node, "click", (event) => {
    const one = event.target.closest("button");
    if (!one || !enabled) return;
    if (one.dataset.act === "rename") rename();
    else if (one.dataset.open) model.send({ op: "open", i: Number(one.dataset.open) });
    else if (one.dataset.place) {
      focusOn(Number(one.dataset.place));
      model.send({ op: "color", key: one.textContent });
    }
  }, signal);
  listen(node, "keydown", (event) => {
    if (event.key === "F2") {
      rename();
      event.preventDefault();
    }
    if (!event.target.dataset.place || event.ctrlKey || event.metaKey || event.altKey) return;
    const places = [...node.querySelectorAll("[data-place]")].map((one) => Number(one.dataset.place));
    const target = nextOption(places.indexOf(current), event.key, places.length, 10);
    if (target === null) return;
    focusOn(places[target]);
    event.preventDefault();
  }, signal);
  follow(model, ["opened", "terms"], show, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; show(); } };
}
