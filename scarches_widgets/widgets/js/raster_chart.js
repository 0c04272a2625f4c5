/** Many cells in a Bokeh figure: a picture that the kernel draws of what is in sight, and lines drawn around cells. */
import { embedFigure, paint } from "./bokeh_figure.js";
import { modeOf } from "./cells.js";
import { chartSight } from "./chart_sight.js";
import { listen } from "./common.js";

const PAUSE = 120; // milliseconds without another change after which the kernel is asked for a picture
const MOST_SHADES = 64; // of a scale, so that a picture is small

/** The corners of a shape that one of Bokeh's tools has drawn; null if it surrounds nothing. */
export function cornersOf({ type, x, y, x0, x1, y0, y1 }) {
  if (type === "rect") return { x: [x0, x1, x1, x0], y: [y0, y0, y1, y1] };
  return type === "poly" && x.length > 2 ? { x: Array.from(x), y: Array.from(y) } : null;
}

/** A scale's colours without most of its steps. */
export function fewer(colours, most = MOST_SHADES) {
  if (colours.length <= most) return colours;
  return Array.from({ length: most }, (_, i) => colours[Math.round((i * (colours.length - 1)) / (most - 1))]);
}

/** A PNG's pixels, four bytes each in one number, and its size. */
async function pixelsOf(png) {
  const bitmap = await createImageBitmap(new Blob([png], { type: "image/png" }), { premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, values: new Uint32Array(context.getImageData(0, 0, width, height).data.buffer) };
}

/**
 * @param places as of `scatterChart`, with an `extent`
 * @param ask called with a part of the plane, its size in pixels and the question's number; the answer goes to `show`
 * @param onSurround called with the corners of a line drawn around cells, and the mode
 * @returns what `scatterChart` returns, with `show` and `askAnew`
 */
export async function rasterChart(host, item, version, places, ask, onSurround, signal) {
  const figure = await embedFigure(host, item, version, signal);
  if (!figure) return null;
  const source = figure.named("picture");
  const tools = Object.fromEntries(["lasso", "box", "move"].map((name) => [name, figure.named(name)]));
  const sight = chartSight(figure, host, places, signal);
  const Pixels = source.data.image[0].constructor; // Bokeh's array of 32-bit numbers with a shape
  let mode = "replace";
  let asked = "replace"; // when the line was begun
  let number = 0; // of the last question
  let shown = -1; // of the answer in sight; -1 for one to another view
  let timer = null;

  function go() {
    timer = null;
    const seen = sight.now();
    if (!seen || signal.aborted) return;
    number += 1;
    ask({ ...seen, number });
  }

  function askAnew(pause = PAUSE) {
    clearTimeout(timer);
    timer = setTimeout(go, pause);
  }

  figure.document.on_event("selectiongeometry", (_, event) => {
    const corners = event.final ? cornersOf(event.geometry) : null;
    if (corners) onSurround(corners, asked);
  });
  listen(host, "pointerdown", (event) => {
    asked = modeOf(event, mode);
    host.focus({ preventScroll: true });
  }, signal);
  signal.addEventListener("abort", () => clearTimeout(timer));
  sight.fit();
  sight.follow(() => askAnew());
  askAnew(0);

  return {
    figure,
    fit: sight.fit,
    move: sight.move,
    placeOf: sight.placeOf,
    askAnew,
    /** @param isOwn whether the picture answers this view's question; another's is shown while there is none */
    async show({ png, x, y, number: answered }, isOwn) {
      if (!png || (isOwn ? answered < number : shown >= 0)) return;
      const { width, height, values } = await pixelsOf(png);
      if (signal.aborted || (isOwn ? answered < number : shown >= 0)) return;
      shown = isOwn ? answered : -1;
      const data = { image: [new Pixels(values, [height, width])], x: [x[0]], y: [y[0]], dw: [x[1] - x[0]], dh: [y[1] - y[0]] };
      source.setv({ data }, { check_eq: false });
      host.dataset.shown = String(shown);
    },
    setColours: () => askAnew(0),
    setPlaces(wanted, stay = false) {
      Object.assign(places, wanted);
      if (!stay) sight.fit();
      askAnew(0);
    },
    setMask() {},
    setMode(wanted) { mode = wanted; },
    setTool(name) { for (const [one, tool] of Object.entries(tools)) tool.active = one === name; },
    setDark(dark) { paint(figure.document, dark, host); },
  };
}
