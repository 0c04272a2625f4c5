/** Points of cells in a Bokeh figure that Python has laid out (embedding_view.py): data, colours, selection, sight. */
import { embedFigure, paint } from "./bokeh_figure.js";
import { drawingOrder, maskOf, modeOf, placesOf, sameMask, taken } from "./cells.js";
import { chartSight } from "./chart_sight.js";
import { element, formatNumber, listen } from "./common.js";

const BOKEH_MODES = { replace: "replace", add: "append", subtract: "subtract" };

/**
 * @param host element to draw in
 * @param cells `{ x, y, names, oneScale, yDown, extent }`, by cell; whether both axes have one scale, and y grows downwards;
 *   `extent` (`{ x, y }`) is what is seen at first, if not the cells
 * @param onSelect called with the mask after a lasso or box
 */
export async function scatterChart(host, item, version, cells, onSelect, signal) {
  const figure = await embedFigure(host, item, version, signal);
  if (!figure) return null;
  const [source, mapper] = ["cells", "colours"].map(figure.named);
  const tools = Object.fromEntries(["lasso", "box", "move"].map((name) => [name, figure.named(name)]));
  const order = drawingOrder(cells.x.length);
  const tip = element("div", { class: "scaw-tip", "aria-hidden": "true", hidden: true });
  host.append(tip);
  let valueOf = () => null; // what the tip says about the cell at a place in drawing order
  let mode = "replace";
  let drawn = new Uint8Array(order.length); // the selection that the chart shows
  let applying = false; // a change comes from here, not from a gesture
  const sight = chartSight(figure, host, cells, signal);

  source.selected.properties.indices.change.connect(() => {
    if (applying) return;
    drawn = maskOf(source.selected.indices, order);
    onSelect(drawn);
  });
  source.inspect.connect(([, { geometry }]) => {
    const place = source.inspected.indices.at(-1); // the one on top
    tip.hidden = place === undefined;
    if (tip.hidden) return;
    tip.replaceChildren(element("strong", {}, cells.names[order[place]]), ...[valueOf(place)].filter(Boolean));
    const isRight = geometry.sx > host.clientWidth / 2;
    tip.style.cssText = `top:${geometry.sy + 14}px;${isRight ? "right" : "left"}:${isRight ? host.clientWidth - geometry.sx : geometry.sx}px`;
  });
  // Alt, which Bokeh does not know, takes away as in the legend
  listen(host, "pointerdown", (event) => {
    const asked = BOKEH_MODES[modeOf(event, mode)];
    tools.lasso.mode = asked;
    tools.box.mode = asked;
    host.focus({ preventScroll: true });
  }, signal);

  let [x, y] = [taken(cells.x, order), taken(cells.y, order)];
  let value = [];
  const put = () => source.setv({ data: { x, y, value } }, { check_eq: false });
  sight.fit();

  return { // has no points before setColours
    figure,
    fit: sight.fit,
    move: sight.move,
    placeOf: sight.placeOf,
    /** @param colours of the groups, or of the scale from `coloring.low` to `coloring.high` */
    setColours(coloring, colours, noValue) {
      const { kind, values, low, high, label } = coloring;
      const numbers = kind === "numbers";
      const ends = numbers ? { low, high: high > low ? high : low + 1 } : { low: -0.5, high: colours.length - 0.5 };
      // silent, and without a comparison of all values: Bokeh lays all points out anew at each change that it notices
      mapper.setv({ palette: colours, nan_color: noValue, ...ends }, { silent: true });
      value = kind === "none" ? new Uint8Array(order.length) : taken(values, order);
      const words = numbers ? formatNumber : (code) => coloring.names[code];
      valueOf = (place) => (kind === "none" ? null : element("span", {}, `${label}: ${words(value[place])}`));
      put();
    },
    /** @param places as `cells`, without names; @param stay whether the part of the plane in sight stays */
    setPlaces(places, stay = false) {
      Object.assign(cells, places);
      [x, y] = [taken(cells.x, order), taken(cells.y, order)];
      if (!stay) sight.fit();
      put();
    },
    setMask(mask) {
      if (sameMask(mask, drawn)) return;
      drawn = mask;
      applying = true;
      source.selected.setv({ indices: placesOf(mask, order) }, { check_eq: false });
      applying = false;
    },
    setMode(wanted) { mode = wanted; },
    setTool(name) { for (const [one, tool] of Object.entries(tools)) tool.active = one === name; },
    setDark(dark) { paint(figure.document, dark, host); },
  };
}
