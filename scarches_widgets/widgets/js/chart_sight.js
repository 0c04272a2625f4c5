/** What a chart of cells shows of the plane: all of them, until somebody moves or zooms; by buttons, keys, wheel, hand. */
import { fittedRanges, moved } from "./cells.js";
import { listen } from "./common.js";

/**
 * @param figure from `embedFigure`
 * @param cells `{ x, y, oneScale, yDown, extent }`, read anew at each fit: `extent` (`{ x, y }`) is what is seen at first, if
 *   not the cells; whether both axes have one scale, and y grows downwards
 */
export function chartSight(figure, host, cells, signal) {
  const [plot, xRange, yRange, wheel] = ["chart", "x", "y", "wheel"].map(figure.named);
  let applying = false; // a change comes from here, not from a gesture
  let whole = true; // all cells are in sight, as long as nobody moves or zooms

  function setRanges({ x, y }) {
    applying = true;
    xRange.setv(x);
    yRange.setv(y);
    applying = false;
  }

  function fit() {
    if (!plot.inner_width || !plot.inner_height) return;
    whole = true;
    const { x: acrossOf, y: upOf } = cells.extent ?? cells;
    const { x, y } = fittedRanges(acrossOf, upOf, plot.inner_width, plot.inner_height, cells.oneScale);
    setRanges({ x, y: cells.yDown ? { start: y.end, end: y.start } : y });
  }

  function move(right, up, zoom = 1) {
    whole = false;
    setRanges({ x: moved(xRange, right, zoom), y: moved(yRange, up, zoom) });
  }

  /** One scale for both axes stays one after the frame has another shape. */
  function reshape() {
    if (whole) fit();
    else if (plot.inner_width && cells.oneScale) {
      const scale = (xRange.end - xRange.start) / plot.inner_width;
      setRanges({ x: moved(xRange, 0), y: moved(yRange, 0, (scale * plot.inner_height) / Math.abs(yRange.end - yRange.start)) });
    }
  }

  const sides = ["inner_width", "inner_height"].map((side) => plot.properties[side].change);
  xRange.properties.start.change.connect(() => { if (!applying) whole = false; });
  for (const side of sides) side.connect(reshape);
  // the wheel scrolls the page unless the chart has the focus
  listen(host, "focusin", () => { wheel.active = true; }, signal);
  listen(host, "focusout", () => { wheel.active = false; }, signal);

  return {
    fit,
    move,
    /** Call `tell` whenever another part of the plane is seen, or in another size. */
    follow(tell) {
      for (const range of [xRange, yRange]) for (const end of ["start", "end"]) range.properties[end].change.connect(tell);
      for (const side of sides) side.connect(tell);
    },
    /** Where in the plane an event happened; null beside it. */
    placeOf({ clientX, clientY }) {
      const { left, top } = host.firstElementChild.getBoundingClientRect();
      const { bbox, x_scale: across, y_scale: up } = figure.view.frame;
      const [sx, sy] = [clientX - left, clientY - top];
      return bbox.contains(sx, sy) ? { x: across.invert(sx), y: up.invert(sy) } : null;
    },
    /** Both ranges and the size in pixels; null before there is one. */
    now() {
      const [width, height] = [plot.inner_width, plot.inner_height];
      if (!width || !height || ![xRange, yRange].every(({ start, end }) => Number.isFinite(end - start) && end !== start)) return null;
      return { x: [xRange.start, xRange.end], y: [yRange.start, yRange.end], width, height };
    },
  };
}
