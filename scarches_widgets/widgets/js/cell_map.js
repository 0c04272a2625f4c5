/** Cells as points, to look at and to select: a chart with tools, a legend and a table. */
import { keptHere, keptThere } from "./cell_keepers.js";
import { modeOf, selectionText, typed, visible, visibleScale, formatCount } from "./cells.js";
import { breakable, button, element, follow, formatNumber, listen } from "./common.js";
import { cellLegend } from "./legend.js";
import { fewer, rasterChart } from "./raster_chart.js";
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
const PANE = { figure: "figure", positions: "positions", label: "label", axes: "axes", picture: "picture" };

/**
 * The cells of a model with the traits of a Python `CellView`, in one chart or several that share selection and colours.
 * @param root gets `data-selected` and `data-color`
 * @param keys the element in which Ctrl+A and Escape select all cells and none; null: the map's own
 * @param panes of each chart: the names of its traits; `title`, an element above it; `isHidden`, a function of a cell;
 *   `dress`, a function that is called with the chart once it is there; `shades`, colours of other cells in its picture
 * @param beside elements below the legend
 * @returns the map's element; `setDark`, `setDetached`, `setPick`; `place`, which puts the cells of a pane anew
 */
export function cellMap(model, root, signal, keys = null, panes = [{}], beside = []) {
  const n = model.get("n_cells");
  const byKernel = Boolean(model.get("by_kernel"));
  const view = Math.random().toString(36).slice(2, 10); // who asks the kernel for pictures
  let coloring = null;
  let mode = "replace";
  let dark = false;
  let detached = false;
  let tool = "lasso";
  let pick = null; // takes a click instead of the selection
  const cells = byKernel ? keptThere(model, () => detached) : keptHere(model, n, () => detached);
  const charts = panes.map((pane) => ({ ...PANE, ...pane, chart: null }));
  const eachChart = (act) => charts.forEach((one) => { if (one.chart) act(one.chart); });

  const all = button("All", { title: "Ctrl+A" });
  const invert = button("Invert");
  const clear = button("Clear", { title: "Esc" });
  const tools = element("div", { class: "scaw-row" },
    choice("Drag to", [["lasso", "Lasso"], ["box", "Box"], ["move", "Move"]], tool, (wanted) => {
      tool = wanted;
      if (!pick) eachChart((chart) => chart.setTool(tool));
    }, signal),
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
    if (pick && "code" in what) pick(what);
    else cells.choose(what, modeOf(event, mode));
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

  function showSelection() {
    cells.read();
    eachChart((chart) => chart.setMask(cells.mask()));
    showCounts();
  }

  function showCounts() {
    const number = cells.count();
    selected.textContent = selectionText(number, n);
    root.dataset.selected = String(number);
    clear.disabled = number === 0;
    const counts = coloring.kind === "categories" ? cells.counts() : null;
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

  const noValue = () => NO_VALUE[dark ? "dark" : "light"];

  function readColours() {
    coloring = cells.colour();
    root.dataset.color = coloring.key ?? "";
  }

  function showColours() {
    readColours();
    eachChart((chart) => chart.setColours(coloring, shades(), noValue()));
    showCounts();
  }

  /** Where the cells lie, and what the axes are if the figure does not say it itself. */
  function places({ above, below, axes, positions, isHidden }) {
    const { x = "", y = "", one_scale: oneScale = true, y_down: yDown = false, extent } = model.get(axes) ?? {};
    above.replaceChildren(yDown ? "↓ " : "↑ ", ...breakable(y));
    below.replaceChildren(...breakable(x), " →");
    above.hidden = below.hidden = !x;
    const values = typed(model.get(positions), "float32");
    if (isHidden && !byKernel) for (let i = 0; i < n; i += 1) if (isHidden(i)) values[i] = NaN;
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
    let rows = [["all", formatCount(n), formatCount(cells.count()), share(cells.count(), n)]];
    if (counts) {
      head[0] = coloring.label;
      const groups = coloring.names.map((name, i) =>
        [name, formatCount(counts.all[i]), formatCount(counts.selected[i]), share(counts.selected[i], counts.all[i])]);
      rows = [...groups, ...rows];
    } else if (coloring.kind === "numbers") {
      head = [coloring.label, "cells", "lowest", "median", "mean", "highest"];
      rows = cells.summaries().map(({ n: count, ...facts }, i) =>
        [["all", "selected"][i], formatCount(count), ...Object.values(facts).map(formatNumber)]);
    }
    tableHost.replaceChildren(element("table", { class: "scaw-table" },
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows.map(row))));
  }

  /** A chart of the cells, or of pictures of them. */
  async function chartIn(one) {
    const [item, version] = [model.get(one.figure), model.get("bokeh_version")];
    if (!byKernel) {
      const names = await unzipped(model.get("names"));
      one.host.replaceChildren();
      return scatterChart(one.host, item, version, { ...places(one), names }, cells.select, signal);
    }
    one.host.replaceChildren();
    const ask = (seen) => {
      const own = shades();
      const colours = { own: coloring.kind === "numbers" ? [...fewer(own), noValue()] : own, ...one.shades?.(dark) };
      cells.look(one.picture, view, { ...seen, colours });
    };
    return rasterChart(one.host, item, version, places(one), ask, (corners, how) => cells.surround(one.picture, corners, how), signal);
  }

  function showPicture(one) {
    const { png, ...picture } = model.get(one.picture);
    one.chart?.show({ ...picture, png }, picture.view === view).catch((error) => {
      if (!signal.aborted) one.host.setAttribute("data-problem", error.message);
    });
  }

  async function draw(one) {
    const { host } = one;
    const drawnPositions = model.get(one.positions);
    try {
      one.chart = await chartIn(one);
    } catch (error) {
      host.replaceChildren(element("p", { class: "scaw-problem" }, `The cells could not be drawn: ${error.message}`));
      return;
    }
    const { chart } = one;
    if (!chart) return; // the view was closed meanwhile
    chart.setDark(dark);
    chart.setMode(mode);
    if (pick) chart.setTool(null);
    chart.setColours(coloring, shades(), noValue());
    chart.setMask(cells.mask());
    one.dress?.(chart);
    if (byKernel) showPicture(one);
    else if (model.get(one.positions) !== drawnPositions) showPlaces(one);
    host.dataset.ready = "true";
  }

  follow(model, [cells.trait], showSelection, signal);
  follow(model, ["coloring"], showColours, signal);
  for (const one of charts) {
    follow(model, [byKernel ? one.axes : one.positions], () => showPlaces(one), signal);
    if (byKernel) follow(model, [one.picture], () => showPicture(one), signal);
  }
  if (byKernel) follow(model, ["edition"], () => eachChart((chart) => chart.askAnew(0)), signal);
  listen(all, "click", () => cells.choose({ what: "all" }), signal);
  listen(invert, "click", () => cells.choose({ what: "inverse" }), signal);
  listen(clear, "click", () => cells.choose({ what: "none" }), signal);
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
    if (event.key === "Escape" && cells.count()) cells.choose({ what: "none" });
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) cells.choose({ what: "all" });
    else return;
    event.preventDefault();
  }, signal);
  for (const one of charts) {
    listen(one.host, "click", (event) => {
      const place = pick && one.chart?.placeOf(event);
      if (place) pick({ pane: one.picture, ...place });
    }, signal);
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
        chart.setColours(coloring, shades(), noValue());
      });
      showCounts();
    },
    setDetached(gone) { detached = gone; },
    /** @param wanted what a click on a group (`{ code }`) or into a chart (`{ pane, x, y }`) does; null: it selects */
    setPick(wanted) {
      pick = wanted;
      eachChart((chart) => chart.setTool(pick ? null : tool));
      node.toggleAttribute("data-picking", Boolean(pick));
    },
  };
}
