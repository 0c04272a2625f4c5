/** A histogram of uncertainties or confidences: one bar per step from 0 to 1, and where the threshold is. */
import { element } from "./common.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 132;
const LEFT = 8;
const UNCERTAINTY = { axis: "uncertainty of the label", several: "Uncertainties", limit: 1, beyond: "Unknown →" };
export const CONFIDENCE = { axis: "confidence of the place", several: "Confidences", limit: 0, beyond: "" };
const FLOOR = 104;
const TOP = 16;

/** A share in per cent; what is not quite nothing or all does not say so. */
export function percent(share) {
  const rounded = (100 * share).toFixed(share > 0.1 && share < 0.995 ? 0 : 1).replace(/\.0$/, "");
  if (rounded === "0" && share > 0) return "<0.1 %";
  if (rounded === "100" && share < 1) return ">99.9 %";
  return `${rounded} %`;
}

/** Rectangles of the bars, [{x, y, width, height}], in the picture's units. */
export function rectangles(counts) {
  const highest = Math.max(1, ...counts);
  const width = (WIDTH - 2 * LEFT) / counts.length;
  return counts.map((count, i) => {
    const height = (count / highest) * (FLOOR - TOP);
    return { x: LEFT + i * width, y: FLOOR - height, width: width - 1, height };
  });
}

/** What the bars show, as a sentence. */
export function barsInWords(counts, threshold, words = UNCERTAINTY) {
  const n = counts.reduce((sum, count) => sum + count, 0);
  const upTo = (end) => counts.slice(0, Math.round(end * counts.length)).reduce((sum, count) => sum + count, 0) / Math.max(1, n);
  const limit = threshold !== words.limit ? `; the threshold is ${threshold}` : "";
  return `${words.several} of ${n.toLocaleString("en")} cells: ${percent(upTo(0.2))} are below 0.2, ${percent(upTo(0.5))} below 0.5${limit}.`;
}

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (text !== undefined) node.textContent = text;
  return node;
}

/** @param about what is counted: UNCERTAINTY or CONFIDENCE */
export function barsOf(counts, threshold, about = UNCERTAINTY) {
  const words = barsInWords(counts, threshold, about);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words, class: "scaw-bars" });
  const at = (value) => LEFT + value * (WIDTH - 2 * LEFT);
  for (const box of rectangles(counts)) picture.append(svg("rect", { ...box, class: "scaw-bar" }));
  picture.append(svg("line", { x1: LEFT, x2: WIDTH - LEFT, y1: FLOOR, y2: FLOOR, class: "scaw-axis" }));
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    const anchor = tick === 0 ? "start" : tick === 1 ? "end" : "middle";
    picture.append(svg("text", { x: at(tick), y: FLOOR + 11, "text-anchor": anchor, class: "scaw-tick" }, String(tick)));
  }
  picture.append(svg("text", { x: WIDTH / 2, y: FLOOR + 23, "text-anchor": "middle", class: "scaw-tick" }, about.axis));
  picture.append(svg("text", { x: LEFT, y: 9, class: "scaw-tick" }, `cells, at most ${Math.max(0, ...counts).toLocaleString("en")} in a bar`));
  if (threshold !== about.limit) {
    picture.append(svg("line", { x1: at(threshold), x2: at(threshold), y1: TOP - 3, y2: FLOOR, class: "scaw-threshold" }));
    const left = threshold > 0.6;
    picture.append(svg("text", { x: at(threshold) + (left ? -4 : 4), y: TOP + 8, "text-anchor": left ? "end" : "start", class: "scaw-tick" }, about.beyond));
  }
  return element("figure", { class: "scaw-bars-figure" }, picture, element("figcaption", { class: "scaw-hint" }, words));
}
