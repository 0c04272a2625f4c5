/** The board of a spatial mapper: tissue beside expression, what colours them, the threshold, what is written. */
import { percent } from "./bars.js";
import { cellMap } from "./cell_map.js";
import { formatCount, typed } from "./cells.js";
import { button, element, follow, followKernel, followTheme, listen } from "./common.js";
import { layerList, tissueLayers } from "./spatial_layers.js";

const PAUSE = 150; // milliseconds without a move of the slider after which the kernel hears of it

const options = (select, pairs, chosen) => {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
  select.value = chosen;
};

/** How many cells are below a threshold. Pure, so that node can test it. */
export function below(confidence, threshold) {
  let n = 0;
  for (const one of confidence) if (one < threshold) n += 1;
  return n;
}

/** The same of many cells, of which the kernel has told the numbers below each hundredth. */
export const belowOf = (counts, threshold) => counts[Math.round(100 * threshold)];

export function unassignedWords(n, total) {
  return `${formatCount(n)} of ${formatCount(total)} cells unassigned (${percent(n / Math.max(1, total))})`;
}

/** What colours the cells: a result, a column, or a gene. */
function colorRow(model, signal) {
  const color = element("select", { class: "scaw-select" });
  const gene = element("input", { class: "scaw-input", type: "text", placeholder: "gene", "aria-label": "Colour by a gene", size: 10 });
  const send = (key) => model.send({ op: "color", key });
  const show = () => {
    const { key } = model.get("coloring");
    const [paints, columns] = [model.get("paints"), model.get("columns")];
    const known = [...paints, ...columns.filter((name) => !paints.includes(name))];
    const pairs = [["", "nothing"], ...known.map((name) => [`key:${name}`, paints.includes(name) ? `${name} (result)` : name])];
    if (key !== null && !known.includes(key)) pairs.push([`key:${key}`, `${key} (gene)`]);
    options(color, pairs, key === null ? "" : `key:${key}`);
  };
  listen(color, "change", () => send(color.value ? color.value.slice("key:".length) : null), signal);
  listen(gene, "change", () => { if (gene.value.trim()) send(gene.value.trim()); }, signal);
  follow(model, ["coloring", "columns", "paints", "error"], show, signal);
  show();
  return { node: element("span", { class: "scaw-sight" }, element("label", {}, "Colour by ", color), gene), controls: [color, gene] };
}

/** A menu that is hidden while there is nothing to choose. */
function menu(model, signal, { label, trait, from, pairs, empty = null }) {
  const select = element("select", { class: "scaw-select" });
  const node = element("label", {}, `${label} `, select);
  const show = () => {
    const choices = pairs(model.get(from));
    node.hidden = choices.length < 2;
    const chosen = model.get(trait);
    options(select, [...(empty ? [["", empty]] : []), ...choices.map(([value, text]) => [`=${value}`, text])], chosen === null ? "" : `=${chosen}`);
  };
  listen(select, "change", () => model.send({ op: "sight", [trait]: select.value ? select.value.slice(1) : null }), signal);
  follow(model, [trait, from, "error"], show, signal);
  show();
  return { node, select };
}

/** The threshold of confidence, and the share of cells below it while it is moved. */
function thresholdRow(model, signal, moved) {
  const id = `scaw-threshold-${Math.random().toString(36).slice(2, 10)}`;
  const slider = element("input", { type: "range", id, min: 0, max: 1, step: 0.01 });
  const number = element("output", { for: id });
  const words = element("span", { class: "scaw-unassigned", role: "status" });
  const bars = element("span", { class: "scaw-spark", "aria-hidden": "true" });
  const node = element("div", { class: "scaw-row scaw-threshold-row", hidden: true },
    element("label", { for: id }, "Keep cells of confidence at least "), element("span", { class: "scaw-sparked" }, bars, slider), number, words);
  const byKernel = model.get("by_kernel");
  let confidence = new Float32Array(0);
  let timer = null;

  function say() {
    const threshold = Number(slider.value);
    number.textContent = threshold.toFixed(2);
    const { below: counts, n_cells: total } = model.get("results");
    const n = byKernel && counts ? belowOf(counts, threshold) : below(confidence, threshold);
    words.textContent = unassignedWords(n, byKernel ? total ?? 0 : confidence.length);
    words.dataset.n = String(n);
    slider.setAttribute("aria-valuetext", `${threshold.toFixed(2)}, ${words.textContent}`);
  }

  function tell() {
    clearTimeout(timer);
    timer = null;
    model.set("threshold", Number(slider.value));
    model.save_changes();
  }

  function show() {
    confidence = typed(model.get("confidence"), "float32");
    node.hidden = byKernel ? !model.get("results").below : !confidence.length;
    const counts = model.get("results").histogram ?? [];
    const highest = Math.max(1, ...counts);
    bars.replaceChildren(...counts.map((count) => element("i", { style: `height:${(100 * count) / highest}%` })));
    if (timer === null) slider.value = model.get("threshold");
    say();
    moved();
  }

  listen(slider, "input", () => {
    say();
    moved();
    clearTimeout(timer);
    timer = setTimeout(() => { if (!signal.aborted) tell(); }, PAUSE);
  }, signal);
  listen(slider, "change", tell, signal);
  follow(model, ["confidence", "threshold", "results"], show, signal);
  return { node, slider, show, isHidden: (cell) => confidence.length > 0 && confidence[cell] < Number(slider.value) };
}

/**
 * Names for the selected cells, or for those of a group or region that is clicked, into the AnnData, and back.
 * @param setPick from `cellMap`
 */
function writeRow(model, signal, setPick) {
  const column = element("input", { class: "scaw-input", type: "text", value: "region", size: 12, "aria-label": "Column of obs" });
  const name = element("input", { class: "scaw-input", type: "text", placeholder: "name", size: 14, "aria-label": "Name for the selected cells" });
  const assign = button("Assign", { title: "To the selected cells" });
  const fill = button("Fill", { "aria-pressed": "false", title: "To each group or outlined region that is clicked" });
  const undo = button("Undo");
  const hint = element("p", { class: "scaw-hint", role: "status", hidden: true },
    "Each group in the list that is clicked, or chosen with Enter, gets the name, and so does each outlined region of the tissue. Esc ends it.");
  const list = element("ul", { class: "scaw-written", "aria-label": "Written", "aria-live": "polite" });
  const node = element("div", {}, element("div", { class: "scaw-row" }, element("span", {}, "Set obs column "), column,
    element("span", {}, " to "), name, element("span", { class: "scaw-groups" }, assign, fill), undo), hint, list);
  const names = () => ({ column: column.value, name: name.value });
  const go = () => model.send({ op: "assign", ...names() });
  const isFilling = () => fill.getAttribute("aria-pressed") === "true";

  function setFilling(wanted) {
    fill.setAttribute("aria-pressed", String(wanted));
    hint.hidden = !wanted;
    setPick(wanted ? ({ pane, ...where }) => {
      if (pane !== "picture") model.send({ op: "fill", ...where, ...names() });
    } : null);
  }

  function takeBack() {
    if (model.get("undoable")) model.send({ op: "undo" });
  }

  listen(assign, "click", go, signal);
  listen(name, "keydown", (event) => { if (event.key === "Enter" && !event.ctrlKey) go(); }, signal);
  listen(fill, "click", () => setFilling(!isFilling()), signal);
  listen(undo, "click", takeBack, signal);
  const show = () => {
    list.replaceChildren(...model.get("written").slice(-5).map((text) => element("li", {}, "✓ Written: ", text)));
    const last = model.get("undoable");
    undo.title = last ? `Takes back: ${last} (Ctrl+Z)` : "Nothing was assigned";
    undo.setAttribute("aria-disabled", String(!last));
  };
  follow(model, ["written", "undoable"], show, signal);
  show();
  return {
    node,
    controls: [column, name, assign, fill, undo],
    /** @returns whether the key was for this */
    onKey(event) {
      if (event.key === "Escape" && isFilling()) setFilling(false);
      else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && !event.target.closest("input[type=text]")) takeBack();
      else return false;
      return true;
    },
  };
}

/** The whole board. */
export function board(model, signal) {
  const node = element("div", { class: "scaw-board" });
  const color = colorRow(model, signal);
  const section = menu(model, signal, { label: "Section", trait: "section", from: "sections", pairs: (names) => names.map((one) => [one, one]), empty: "all" });
  const plane = menu(model, signal, { label: "Plane", trait: "plane", from: "planes", pairs: (names) => names.map((one) => [one, one.split("").join("–")]) });
  const basis = menu(model, signal, { label: "Cells by", trait: "basis", from: "bases", pairs: (pairs) => pairs });
  const layers = layerList(model, signal);
  const drawn = tissueLayers(model, signal);
  let map = null;
  let write = null;
  listen(node, "keydown", (event) => { // before the map, which has its own use for Escape
    if (!write.onKey(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, signal);
  const threshold = thresholdRow(model, signal, () => map?.place(0));
  const problem = element("p", { class: "scaw-notice scaw-warning", hidden: true });
  const waiting = element("p", { class: "scaw-hint" });
  const title = (words, ...more) => element("div", { class: "scaw-pane-head" }, element("h4", {}, words), ...more);
  map = cellMap(model, node, signal, node, [
    { figure: "tissue_figure", positions: "tissue", label: "tissue_label", axes: "tissue_axes", picture: "tissue_picture", shades: drawn.shades, isHidden: threshold.isHidden, dress: drawn.dress,
      title: element("div", {}, title("Tissue", section.node, plane.node), problem, waiting) },
    { title: element("div", {}, title("The same cells", basis.node)) },
  ], [layers.node]);
  write = writeRow(model, signal, map.setPick);
  node.append(element("div", { class: "scaw-row" }, color.node), map.node, threshold.node, write.node);
  threshold.show();

  function show() {
    problem.textContent = model.get("tissue_problem");
    problem.hidden = !problem.textContent;
    problem.closest(".scaw-pane").toggleAttribute("data-empty", !problem.hidden);
    const isQuery = model.get("layer_states").some(({ name }) => name === "predicted");
    const isPlaced = Boolean(model.get("results").method);
    waiting.textContent = isQuery && !isPlaced ? "The reference. The query's cells appear here when they are mapped." : "";
    waiting.hidden = !waiting.textContent || !problem.hidden;
  }
  follow(model, ["tissue_problem", "layer_states", "results"], show, signal);
  show();
  followTheme(node, (dark) => { map.setDark(dark); drawn.setDark(dark); layers.setDark(dark); }, signal);
  followKernel(model, (gone) => {
    map.setDetached(gone);
    layers.setEnabled(!gone);
    for (const control of [...color.controls, ...write.controls, section.select, plane.select, basis.select, threshold.slider]) control.disabled = gone;
  }, signal);
  return node;
}
