/** Cells as points, to look at and to select: a chart with tools, a legend and a table. */
import {
  combine, countOf, countsOf, inverse, maskBetween, maskOfCode, modeOf, pack, selectionText, summaryOf, typed, unpack, visible,
  visibleScale, formatCount,
} from "./cells.js";
import { breakable, button, element, follow, formatNumber, listen } from "./common.js";
import { cellLegend } from "./legend.js";
import { scatterChart } from "./scatter_chart.js";

const PAPER = { light: "#ffffff", dark: "#1b1b20" };
const NO_VALUE = { light: "#a6a6ae", dark: "#6c6c78" };
const LEAST_CONTRAST = { light: 1.15, dark: 1.8 }; // scanpy's colours are made for light paper

/** Obs names out of gzipped JSON. */
async function unzipped(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A row of buttons of which one is pressed. */
function choice(label, options, chosen, onChange, signal) {
  const buttons = options.map(([value, text, title]) => {
    const one = button(text, { title, "aria-pressed": String(value === chosen), "data-value": value });
    listen(one, "click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === one));
      onChange(value);
    }, signal);
    return one;
  });
  return element("span", { class: "scaw-groups", role: "group", "aria-label": label },
    element("span", { class: "scaw-hint", "aria-hidden": "true" }, label), ...buttons);
}

/** A chart of a map: the traits that it is drawn from. */
const PANE = { figure: "figure", positions: "positions", label: "label", axes: "axes" };

/**
 * The cells of a model with the traits of a Python `CellView`, in one chart or several that share selection and colours.
 * @param root gets `data-selected` and `data-color`
 * @param keys the element in which Ctrl+A and Escape select all cells and none; null: the map's own
 * @param panes of each chart: the names of its traits; `title`, an element above it; `isHidden`, a function of a cell;
 *   `dress`, a function that is called with the chart once it is there
 * @param beside elements below the legend
 * @returns the map's element; `setDark`, `setDetached`; `place`, which puts the cells of a pane anew
 */
export function cellMap(model, root, signal, keys = null, panes = [{}], beside = []) {
  const n = model.get("n_cells");
  let mask = unpack(model.get("selected"), n);
  let coloring = null;
  let mode = "replace";
  let dark = false;
  let detached = false;
  const charts = panes.map((pane) => ({ ...PANE, ...pane, chart: null }));
  const eachChart = (act) => charts.forEach((one) => { if (one.chart) act(one.chart); });

  const all = button("All", { title: "Ctrl+A" });
  const invert = button("Invert");
  const clear = button("Clear", { title: "Esc" });
  const tools = element("div", { class: "scaw-row" },
    choice("Drag to", [["lasso", "Lasso"], ["box", "Box"], ["move", "Move"]], "lasso", (tool) => eachChart((chart) => chart.setTool(tool)), signal),
    choice("A selection will", [["replace", "Replace"], ["add", "Add", "Shift"], ["subtract", "Subtract", "Alt"]], mode,
      (wanted) => { mode = wanted; eachChart((chart) => chart.setMode(wanted)); }, signal),
    element("span", { class: "scaw-groups" }, all, invert, clear));
  const selected = element("div", { class: "scaw-selected", role: "status", "aria-live": "polite" });
  for (const one of charts) {
    one.host = element("div", { class: "scaw-chart", tabindex: "0", role: "group" },
      element("p", { class: "scaw-soft" }, "Drawing the cells …"));
    [one.above, one.below] = ["scaw-axis-y", "scaw-axis-x"].map((name) => element("p", { class: `scaw-axis-name ${name}`, hidden: true }));
  }
  const legend = cellLegend((what, event) => {
    const chosen = "code" in what ? maskOfCode(coloring.values, what.code) : maskBetween(coloring.values, what.low, what.high);
    choose(combine(mask, chosen, modeOf(event, mode)));
  }, signal);
  const table = button("Table", { "aria-expanded": "false" });
  const whole = button("Show all", { title: "0" });
  const closer = button("+", { "aria-label": "Zoom in", title: "+" });
  const farther = button("−", { "aria-label": "Zoom out", title: "−" });
  const tableHost = element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Selected cells", hidden: true });
  const node = element("div", { class: "scaw-map" }, tools, selected,
    element("div", { class: "scaw-cells" },
      element("div", { class: "scaw-panes" },
        ...charts.map((one) => element("div", { class: "scaw-pane" }, one.title, one.above, one.host, one.below))),
      element("div", {}, legend.host, ...beside)),
    element("div", { class: "scaw-row" }, element("span", { class: "scaw-groups" }, closer, farther, whole), table,
      element("span", { class: "scaw-hint" },
        "Keys: in the list ↑ ↓ and Enter (Shift adds, Alt takes away); Ctrl+A all, Esc none, Esc again back to the cell; on the chart ← → ↑ ↓ + − 0")),
    tableHost);

  /** Tell the model; it tells all its views, this one too. */
  function choose(wanted) {
    const bits = pack(wanted);
    model.set("selected", new DataView(bits.buffer));
    if (!detached) model.save_changes();
  }

  function showSelection() {
    mask = unpack(model.get("selected"), n);
    eachChart((chart) => chart.setMask(mask));
    showCounts();
  }

  function showCounts() {
    const number = countOf(mask);
    selected.textContent = selectionText(number, n);
    root.dataset.selected = String(number);
    clear.disabled = number === 0;
    const counts = coloring.kind === "categories" ? countsOf(coloring.values, coloring.names.length, mask) : null;
    legend.show(coloring, shades(), counts);
    const by = coloring.kind === "none" ? "" : `, coloured by ${coloring.label}`;
    for (const one of charts) {
      one.host.setAttribute("aria-label", `${model.get(one.label)} of ${formatCount(n)} cells${by}. ${selected.textContent}.`);
    }
    showTable(counts);
  }

  /** The colours as this theme shows them. */
  function shades() {
    const theme = dark ? "dark" : "light";
    if (coloring.kind === "numbers") return visibleScale(coloring.colours, PAPER[theme], LEAST_CONTRAST[theme]);
    const colours = coloring.colours.map((colour) => visible(colour, PAPER[theme], LEAST_CONTRAST[theme]));
    if (coloring.has_missing) colours[colours.length - 1] = NO_VALUE[theme];
    return colours;
  }

  function readColours() {
    const content = model.get("coloring");
    coloring = { ...content, values: typed(content.values, content.dtype) };
    root.dataset.color = content.key ?? "";
  }

  function showColours() {
    readColours();
    eachChart((chart) => chart.setColours(coloring, shades(), NO_VALUE[dark ? "dark" : "light"]));
    showCounts();
  }

  /** Where the cells lie, and what the axes are if the figure does not say it itself. */
  function places({ above, below, axes, positions, isHidden }) {
    const { x = "", y = "", one_scale: oneScale = true, y_down: yDown = false, extent } = model.get(axes) ?? {};
    above.replaceChildren(yDown ? "↓ " : "↑ ", ...breakable(y));
    below.replaceChildren(...breakable(x), " →");
    above.hidden = below.hidden = !x;
    const values = typed(model.get(positions), "float32");
    if (isHidden) for (let i = 0; i < n; i += 1) if (isHidden(i)) values[i] = NaN;
    return { x: values.subarray(0, n), y: values.subarray(n), oneScale, yDown, extent };
  }

  /** @param stay whether the part of the plane in sight stays */
  function showPlaces(one, stay = false) {
    one.chart?.setPlaces(places(one), stay);
    if (!stay) showCounts();
  }

  function showTable(counts) {
    if (tableHost.hidden) return;
    const share = (part, total) => (total ? `${((100 * part) / total).toFixed(1)} %` : "–");
    const row = (cells) => element("tr", {}, ...cells.map((text, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, text)));
    let head = ["cells", "all", "selected", "selected of all"];
    let rows = [["all", formatCount(n), formatCount(countOf(mask)), share(countOf(mask), n)]];
    if (counts) {
      head[0] = coloring.label;
      const groups = coloring.names.map((name, i) =>
        [name, formatCount(counts.all[i]), formatCount(counts.selected[i]), share(counts.selected[i], counts.all[i])]);
      rows = [...groups, ...rows];
    } else if (coloring.kind === "numbers") {
      head = [coloring.label, "cells", "lowest", "median", "mean", "highest"];
      const every = new Uint8Array(n).fill(1);
      rows = [["all", every], ["selected", mask]].map(([name, of]) => {
        const { n: count, ...facts } = summaryOf(coloring.values, of);
        return [name, formatCount(count), ...Object.values(facts).map(formatNumber)];
      });
    }
    tableHost.replaceChildren(element("table", { class: "scaw-table" },
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows.map(row))));
  }

  async function draw(one) {
    const { host } = one;
    let drawnPositions = null;
    try {
      const names = await unzipped(model.get("names"));
      drawnPositions = model.get(one.positions);
      host.replaceChildren();
      one.chart = await scatterChart(host, model.get(one.figure), model.get("bokeh_version"), { ...places(one), names }, choose, signal);
    } catch (error) {
      host.replaceChildren(element("p", { class: "scaw-problem" }, `The cells could not be drawn: ${error.message}`));
      return;
    }
    const { chart } = one;
    if (!chart) return; // the view was closed meanwhile
    chart.setDark(dark);
    chart.setMode(mode);
    chart.setColours(coloring, shades(), NO_VALUE[dark ? "dark" : "light"]);
    chart.setMask(mask);
    one.dress?.(chart);
    if (model.get(one.positions) !== drawnPositions) showPlaces(one);
    host.dataset.ready = "true";
  }

  follow(model, ["selected"], showSelection, signal);
  follow(model, ["coloring"], showColours, signal);
  for (const one of charts) follow(model, [one.positions], () => showPlaces(one), signal);
  listen(all, "click", () => choose(new Uint8Array(n).fill(1)), signal);
  listen(invert, "click", () => choose(inverse(mask)), signal);
  listen(clear, "click", () => choose(new Uint8Array(n)), signal);
  listen(whole, "click", () => eachChart((chart) => chart.fit()), signal);
  listen(closer, "click", () => eachChart((chart) => chart.move(0, 0, 0.8)), signal);
  listen(farther, "click", () => eachChart((chart) => chart.move(0, 0, 1.25)), signal);
  listen(table, "click", () => {
    tableHost.hidden = !tableHost.hidden;
    table.setAttribute("aria-expanded", String(!tableHost.hidden));
    showCounts();
  }, signal);
  listen(keys ?? node, "keydown", (event) => {
    if (event.target.closest("input, select")) return;
    if (event.key === "Escape" && countOf(mask)) choose(new Uint8Array(n));
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) choose(new Uint8Array(n).fill(1));
    else return;
    event.preventDefault();
  }, signal);
  for (const one of charts) {
    listen(one.host, "keydown", (event) => {
      const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1], "+": [0, 0, 0.8], "-": [0, 0, 1.25] };
      if (event.ctrlKey || event.metaKey || !one.chart) return;
      if (event.key in steps) one.chart.move(...steps[event.key]);
      else if (event.key === "0") one.chart.fit();
      else return;
      event.preventDefault();
    }, signal);
  }

  readColours();
  charts.forEach(draw);
  return {
    node,
    place: (number) => showPlaces(charts[number], true),
    setDark(isDark) {
      dark = isDark;
      eachChart((chart) => {
        chart.setDark(dark);
        chart.setColours(coloring, shades(), NO_VALUE[dark ? "dark" : "light"]);
      });
      showCounts();
    },
    setDetached(gone) { detached = gone; },
  };
}
