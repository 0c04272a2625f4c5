import { element, follow, formatNumber } from "./js/common.js";
import { barsOf, percent } from "./js/bars.js";
import { steering } from "./js/actions.js";
import { genesOf, plural } from "./js/genes.js";
import { panelOf } from "./js/panel.js";

function levelsOf({ name, new: fresh, n_new: n, known }) {
  const more = n > fresh.length ? ", …" : "";
  const adds = n ? `Adds ${plural(n, `new ${name}`, `new ${name}${/(s|ch|x)$/.test(name) ? "es" : "s"}`)}: ${fresh.join(", ")}${more}.` : `No new ${name}.`;
  return element("div", {}, element("p", {}, adds),
    known.length ? element("p", {}, `Known to the reference: ${known.join(", ")}.`) : null);
}

function overviewOf(model, signal) {
  const host = element("div", { class: "scaw-overview" });
  const show = () => {
    const overlap = model.get("overlap");
    host.replaceChildren();
    host.hidden = overlap.share === undefined;
    if (host.hidden) return;
    const variables = overlap.variables.length ? overlap.variables.map(levelsOf) : [element("p", {}, "The reference knows no batches.")];
    host.append(genesOf(overlap), element("div", { class: "scaw-block" }, element("h4", {}, "Batches"), ...variables));
  };
  follow(model, ["overlap"], show, signal);
  show();
  return host;
}

function tableOf(results) {
  const classified = results.agrees !== null;
  const head = ["Label", "Cells", "Share", "Mean uncertainty", "Unknown", ...(classified ? ["Classifier agrees"] : [])];
  const texts = (row) => [row.n.toLocaleString("en"), percent(row.n / results.n_cells), row.mean.toFixed(2), percent(row.unknown),
    ...(classified ? [percent(row.agrees)] : [])];
  const rows = results.rows.map((row) => element("tr", {}, element("th", { scope: "row" }, row.label), ...texts(row).map((text) => element("td", {}, text))));
  const cut = results.n_labels > rows.length ? `The ${rows.length} most frequent of ${results.n_labels} labels. ` : "";
  const caption = `${cut}Labels by the neighbours' vote; "Unknown" is the share of cells above the threshold of ${formatNumber(results.threshold)}${
    classified ? `; the reference's classifier gives the same label to ${percent(results.agrees)} of all cells` : ""}.`;
  return element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Predicted labels" },
    element("table", { class: "scaw-table" }, element("caption", { class: "scaw-hint" }, caption),
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))), element("tbody", {}, ...rows)));
}

function resultsOf(model, signal) {
  const host = element("div", { class: "scaw-results" });
  const show = () => {
    const results = model.get("results");
    host.replaceChildren();
    host.hidden = !results.written;
    if (host.hidden) return;
    host.append(element("p", {}, element("strong", {}, "Written to the query: "), results.written.join(", "), "."));
    if (!results.rows) return;
    const sum = `${plural(results.n_cells, "cell")}, mean uncertainty ${results.mean.toFixed(2)}, ${plural(results.n_unknown, "cell")} Unknown.`;
    host.append(element("h4", {}, `Labels of ${results.labels_key}`), element("p", {}, sum),
      element("div", { class: "scaw-labels" }, tableOf(results), barsOf(results.histogram, results.threshold)));
  };
  follow(model, ["results"], show, signal);
  show();
  return host;
}

function render({ model, el }) {
  const result = (status) => (status === "done" ? "Mapped. In Python the adapted model is this panel's .model."
    : "Stopped; nothing was written to the query.");
  return panelOf({ model, el }, {
    name: "Mapping panel", title: () => "Map a query", result,
    steer: steering({
      finish: "End the training after this epoch, then label the cells",
      stop: "End now; nothing is written",
    }),
    start: { label: "Map", again: "Map again", op: "map" },
    before: [(signal) => overviewOf(model, signal)], after: [(signal) => resultsOf(model, signal)],
  });
}

export default { render };
