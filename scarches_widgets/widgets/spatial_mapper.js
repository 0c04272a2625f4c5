import { steering } from "./js/actions.js";
import { barsOf, CONFIDENCE, percent } from "./js/bars.js";
import { button, element, follow, formatNumber, listen } from "./js/common.js";
import { genesOf } from "./js/genes.js";
import { panelOf } from "./js/panel.js";
import { remarkElement } from "./js/remarks.js";
import { board } from "./js/spatial_board.js";
import { statisticsOf } from "./js/spatial_statistics.js";

const GENES = { few: "Places are told from the shared genes alone.", missing: "not used" };
const METHODS = { SageNet: "SageNet", neighbours: "nearest neighbours" };

/** How the model does on cells that it has not seen, and the baseline where that is better. */
function verdictOf(verdict, method, send, signal) {
  const rows = verdict.rows.map(({ method: name, correlation, error }) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", {}, correlation.toFixed(2)), element("td", {}, formatNumber(error))));
  const table = element("table", { class: "scaw-table" },
    element("caption", { class: "scaw-hint" }, "Reference cells that training did not see; errors in the unit of the coordinates"),
    element("thead", {}, element("tr", {}, ...["Method", "Correlation of distances", "Median error"].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...rows));
  const use = button("Place by nearest neighbours instead", { "data-op": "neighbours" });
  listen(use, "click", () => send({ op: "neighbours" }), signal);
  return element("div", { class: "scaw-verdict" }, element("h4", {}, "Test on held-out cells"),
    remarkElement({ level: verdict.better ? "ok" : "warning", text: verdict.text }, "p"),
    verdict.better || method === "neighbours" ? null : use, element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Scores on held-out cells" }, table));
}

function resultsOf(model, signal) {
  const host = element("div", { class: "scaw-results" });
  const write = button("Write to the query", { title: "Places into obsm, confidences and regions into obs" });
  listen(write, "click", () => model.send({ op: "write" }), signal);
  const show = () => {
    const results = model.get("results");
    const verdict = model.get("verdict");
    host.replaceChildren();
    host.hidden = !results.method;
    if (host.hidden) return;
    const two = results.n_bimodal ? ` ${results.n_bimodal.toLocaleString("en")} of them (${percent(results.n_bimodal / results.n_cells)}) fit two places; the likelier is taken.` : "";
    const sum = `${results.n_cells.toLocaleString("en")} cells placed by ${METHODS[results.method]}, mean confidence ${results.mean.toFixed(2)}.${two}`;
    const bars = barsOf(results.histogram, model.get("threshold"), CONFIDENCE);
    host.append(element("h4", {}, "Places"), element("p", {}, sum), element("div", { class: "scaw-row" }, write),
      element("div", { class: "scaw-labels" }, bars, verdict.rows ? verdictOf(verdict, results.method, (content) => model.send(content), signal) : null));
  };
  follow(model, ["results", "verdict", "threshold"], show, signal);
  show();
  return host;
}

function overviewOf(model, signal) {
  const host = element("div", { class: "scaw-overview" });
  const show = () => {
    const overlap = model.get("overlap");
    host.hidden = overlap.share === undefined;
    host.replaceChildren(...(host.hidden ? [] : [genesOf(overlap, GENES)]));
  };
  follow(model, ["overlap"], show, signal);
  show();
  return host;
}

function render({ model, el }) {
  const result = (status) => (status === "done" ? "The query is placed; it is written to only by a click. In Python: .locations, .regions, .is_assigned."
    : "Stopped.");
  return panelOf({ model, el }, {
    name: "Spatial mapper", title: () => "Tissue", result,
    steer: steering({
      finish: "End the training after this epoch, then place the cells",
      stop: "End now; of a test on held-out cells, there is no verdict",
    }),
    start: { label: "Map", again: "Map again", op: "map" },
    before: [(at) => board(model, at), (at) => overviewOf(model, at)], after: [(at) => resultsOf(model, at), (at) => statisticsOf(model, at)],
  });
}

export default { render };
