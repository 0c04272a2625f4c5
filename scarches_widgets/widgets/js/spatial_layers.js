/** The layers below and above the selectable cells of a tissue: drawn in its chart, switched in a list. */
import { drawingOrder, taken, typed, visible, visibleScale } from "./cells.js";
import { element, follow, listen, wishes } from "./common.js";
import { fewer } from "./raster_chart.js";

const PAPER = { light: "#ffffff", dark: "#1b1b20" };
const GREY = { light: "#a6a6ae", dark: "#6c6c78" };
const LEAST_CONTRAST = { light: 1.3, dark: 1.8 };
const MOST_CHIPS = 12;

/** Four columns out of all x0, y0, x1, y1. */
export function linesOf(bytes) {
  const values = typed(bytes, "float32");
  const n = values.length / 4;
  return Object.fromEntries(["x0", "y0", "x1", "y1"].map((name, i) => [name, values.subarray(i * n, (i + 1) * n)]));
}

/** A coloring's colours as a theme shows them. */
export function shadesOf({ kind, colours, has_missing: hasMissing }, theme) {
  if (kind === "none") return [GREY[theme]];
  if (kind === "numbers") return visibleScale(colours, PAPER[theme], LEAST_CONTRAST[theme]);
  const shades = colours.map((colour) => visible(colour, PAPER[theme], LEAST_CONTRAST[theme]));
  if (hasMissing) shades[shades.length - 1] = GREY[theme];
  return shades;
}

/** Draws the layers of a widget model in the tissue's chart. */
export function tissueLayers(model, signal) {
  let chart = null;
  let theme = "light";
  let picture = null; // object URL of the image

  const named = (name) => chart.figure.named(name);
  const fill = (name, data) => named(`layer_${name}`).setv({ data }, { check_eq: false });
  const nothing = { x0: [], y0: [], x1: [], y1: [] };

  function showImage() {
    const { jpeg, width, height } = model.get("image");
    if (picture) URL.revokeObjectURL(picture);
    picture = jpeg ? URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) : null;
    fill("image", picture ? { url: [picture], x: [width / 2], y: [height / 2], w: [width], h: [height] } : { url: [], x: [], y: [], w: [], h: [] });
  }

  const showGraph = () => fill("graph", model.get("graph").lines ? linesOf(model.get("graph").lines) : nothing);

  function showOutlines() {
    const { lines, regions, colours } = model.get("outlines");
    if (!lines) return fill("regions", { ...nothing, colour: [] });
    const shades = shadesOf({ kind: "categories", colours }, theme);
    return fill("regions", { ...linesOf(lines), colour: Array.from(typed(regions, "uint16"), (code) => shades[code]) });
  }

  function showReference() {
    const { positions, ...coloring } = model.get("reference_cells");
    if (!positions) return fill("cells", { x: [], y: [], value: [] });
    const values = typed(positions, "float32");
    const order = drawingOrder(values.length / 2);
    const shades = shadesOf(coloring, theme);
    const { low, high } = coloring.kind === "numbers" ? coloring : { low: -0.5, high: shades.length - 0.5 };
    named("layer_cells_colours").setv({ palette: shades, nan_color: GREY[theme], low, high: high > low ? high : low + 1 }, { silent: true });
    const value = coloring.kind === "none" ? new Uint8Array(order.length) : taken(typed(coloring.values, coloring.dtype), order);
    return fill("cells", { x: taken(values.subarray(0, order.length), order), y: taken(values.subarray(order.length), order), value });
  }

  function showStates() {
    if (!chart) return;
    const states = Object.fromEntries(model.get("layer_states").map((state) => [state.name, state]));
    const hasQuery = "predicted" in states;
    const renderers = { image: "drawn_image", graph: "drawn_graph", regions: "drawn_regions", cells: hasQuery ? "drawn_cells" : "points", predicted: "points" };
    for (const [name, { visible: isVisible, opacity, radius }] of Object.entries(states)) {
      const renderer = named(renderers[name]);
      renderer.visible = isVisible;
      if (name === "image") renderer.glyph.global_alpha = opacity;
      else if (name === "graph" || name === "regions") renderer.glyph.line_alpha = opacity;
      else if (renderers[name] === "points") {
        for (const glyph of ["glyph", "selection_glyph"]) renderer[glyph].setv({ fill_alpha: opacity, radius });
        renderer.nonselection_glyph.setv({ fill_alpha: 0.15 * opacity, radius });
      } else renderer.glyph.setv({ fill_alpha: opacity, radius });
    }
  }

  const all = { image: showImage, graph: showGraph, outlines: showOutlines, reference_cells: showReference };
  for (const [name, show] of Object.entries(all)) follow(model, [name], () => { if (chart) show(); }, signal);
  follow(model, ["layer_states"], showStates, signal);
  signal.addEventListener("abort", () => { if (picture) URL.revokeObjectURL(picture); });
  /** Of the reference's cells, where the kernel draws them. */
  function shades(dark) {
    const coloring = model.get("reference_cells");
    if (coloring.kind === undefined) return {};
    const own = shadesOf(coloring, dark ? "dark" : "light");
    return { reference: coloring.kind === "numbers" ? [...fewer(own), GREY[dark ? "dark" : "light"]] : own };
  }

  const showAll = () => { for (const show of Object.values(all)) show(); };
  return {
    shades,
    dress(drawn) {
      chart = drawn;
      showStates();
      showAll();
    },
    setDark(dark) {
      theme = dark ? "dark" : "light";
      if (chart) showAll();
    },
  };
}

/** Swatches of a layer's colours, since the legend is that of other cells. */
function chips({ names, colours }, dark) {
  if (!names?.length) return null;
  const shades = shadesOf({ kind: "categories", colours }, dark ? "dark" : "light");
  const shown = names.slice(0, MOST_CHIPS).map((name, i) => element("span", { class: "scaw-layer-chip" },
    element("span", { class: "scaw-swatch", "aria-hidden": "true", style: `background:${shades[i]}` }), name));
  return element("div", { class: "scaw-chips" }, ...shown,
    names.length > MOST_CHIPS ? element("span", { class: "scaw-hint" }, `and ${names.length - MOST_CHIPS} more`) : null);
}

/** The list of layers, the uppermost first. */
export function layerList(model, signal) {
  const rows = new Map();
  const list = element("ul", { class: "scaw-layers" });
  const node = element("section", { "aria-label": "Layers of the tissue" }, element("p", { class: "scaw-legend-title" }, "Layers"), list);
  let enabled = true;
  let dark = false;

  function rowOf({ name, label, colors }) {
    const wished = wishes(() => show(), signal);
    const send = (change) => { wished.add(change); model.send({ op: "layer", name, ...change }); };
    const box = element("input", { type: "checkbox" });
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": `Opacity of ${label}` });
    const color = colors ? element("select", { class: "scaw-select", "aria-label": `Colour of ${label}` }) : null;
    const note = element("p", { class: "scaw-hint" });
    const swatches = element("div");
    listen(box, "change", () => send({ visible: box.checked }), signal);
    listen(slider, "change", () => send({ opacity: Number(slider.value) }), signal);
    if (color) listen(color, "change", () => send({ color: color.value ? color.value.slice("column:".length) : null }), signal);
    const row = element("li", { class: "scaw-layer", "data-layer": name },
      element("label", {}, box, element("span", {}, label)), slider, color, note, swatches);
    return { row, box, slider, color, note, swatches, wished };
  }

  function show() {
    const states = model.get("layer_states");
    for (const state of states) {
      if (!rows.has(state.name)) rows.set(state.name, rowOf(state));
      const { box, slider, color, note, swatches, row, wished } = rows.get(state.name);
      const wanted = wished.over(state);
      box.checked = wanted.visible;
      slider.value = wanted.opacity;
      box.disabled = slider.disabled = !enabled;
      row.dataset.visible = String(state.visible);
      note.textContent = state.visible ? state.note : "";
      if (color) {
        const known = wanted.color === null || state.colors.includes(wanted.color) ? state.colors : [...state.colors, wanted.color];
        color.replaceChildren(...[["", "one colour"], ...known.map((key) => [`column:${key}`, key])].map(([value, text]) => element("option", { value }, text)));
        color.value = wanted.color === null ? "" : `column:${wanted.color}`;
        color.disabled = !enabled;
      }
      const legend = { cells: model.get("reference_cells"), regions: model.get("outlines") }[state.name] ?? {};
      const own = model.get("coloring");
      const isSame = legend.names?.join("\n") === own.names?.join("\n") && legend.colours?.join() === own.colours?.join();
      swatches.replaceChildren(...[state.visible && !isSame && legend.kind !== "numbers" ? chips(legend, dark) : null].filter(Boolean));
    }
    if (list.childElementCount !== states.length) list.replaceChildren(...[...states].reverse().map(({ name }) => rows.get(name).row));
  }

  follow(model, ["layer_states", "reference_cells", "outlines", "coloring"], show, signal);
  show();
  return {
    node,
    setEnabled(wanted) { enabled = wanted; show(); },
    setDark(isDark) { dark = isDark; show(); },
  };
}

