/** The chart of losses: raw and smoothed curves of every run, as far as they are to be seen; marks and the cursor. */
import { embedFigure, paint, readable } from "./bokeh_figure.js";
import { element, listen } from "./common.js";
import { axisEnd, smoothed, standingAlone } from "./history.js";

const ENDED = ["done", "stopped", "failed"];
const FAINT = 0.25; // opacity of the raw curve behind its smoothed one

/** The store's columns grow, and the chart's by what is streamed to it: shared ones would have each new row twice. */
const copied = (columns) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, [...values]]));

/** Draws nothing before there are series. */
export function chartOf(model, store, host, signal) {
  let figure = null;
  let embedding = 0;
  let dark = false;
  let inner = null;
  let isWhole = true; // all epochs are in sight, as long as nobody zooms
  let placing = false; // a change of the range of epochs comes from here, not from a gesture
  signal.addEventListener("abort", () => inner?.abort());

  async function embed() {
    inner?.abort();
    figure = null;
    const item = model.get("figure");
    if (!item?.doc) {
      host.replaceChildren(element("p", { class: "scaw-soft" }, "Waiting for the first epoch."));
      return;
    }
    const mine = (embedding += 1);
    inner = new AbortController();
    host.replaceChildren();
    try {
      const embedded = await embedFigure(host, item, model.get("bokeh_version"), inner.signal);
      if (!embedded || mine !== embedding) return;
      figure = embedded;
      attend();
    } catch (error) {
      host.replaceChildren(element("p", { class: "scaw-problem" }, `The chart could not be drawn: ${error.message}`));
      return;
    }
    colour();
    fill();
    setLog();
    host.dataset.ready = "true";
  }

  /** Zoom by gestures, the wheel's only while the chart has the focus; what is seen then stays while the run goes on. */
  function attend() {
    isWhole = true;
    const range = figure.named("epochs");
    for (const end of ["start", "end"]) range.properties[end].change.connect(() => { isWhole &&= placing; });
    const wheel = figure.named("wheel");
    listen(host, "focusin", () => { wheel.active = true; }, inner.signal);
    listen(host, "focusout", () => { wheel.active = false; }, inner.signal);
  }

  function fit() {
    if (!figure) return;
    figure.view.reset();
    isWhole = true;
    mark();
  }

  const isSeen = (one) => {
    const terms = store.n > 1 ? model.get("shown_terms").slice(0, 1) : model.get("shown_terms");
    return one.seen_by.some((term) => terms.includes(term)) && !model.get("hidden_runs").includes(one.run);
  };
  const seen = () => model.get("series").filter(isSeen);
  const line = (kind, one) => figure.named(`${kind}:${one.run}:${one.key}`);

  function colour() {
    if (!figure) return;
    paint(figure.document, dark, host);
    for (const one of model.get("series")) {
      const color = readable(one.colour, dark);
      for (const kind of ["raw", "smooth"]) if (line(kind, one)) line(kind, one).glyph.line_color = color;
      line("alone", one)?.glyph.setv({ line_color: color, fill_color: color });
    }
  }

  function fill() {
    if (!figure) return;
    for (const [key, history] of store.histories) {
      const source = figure.named(`raw:${key}`);
      if (source) source.data = copied(history.columns);
    }
    show();
    mark();
  }

  function grow(fresh) {
    if (!figure) return;
    for (const [key, rows] of fresh) {
      const source = figure.named(`raw:${key}`);
      const { length, columns } = store.histories.get(key);
      if (!source) continue;
      if (rows.epoch.length === length) source.data = copied(columns);
      else source.stream(rows);
    }
    if (fresh.size && model.get("smoothing")) smooth();
    if (fresh.size) point();
    mark();
  }

  function smooth() {
    const weight = model.get("smoothing");
    for (const [key, history] of store.histories) {
      const source = figure.named(`smooth:${key}`);
      const keys = new Set(seen().filter((one) => one.run === key).map((one) => one.key));
      if (!source || !keys.size) continue;
      const columns = Object.entries(history.columns).map(([name, values]) => [name, keys.has(name) ? smoothed(values, weight) : values]);
      source.data = Object.fromEntries(columns);
    }
  }

  /** Points for what no line shows. */
  function point() {
    const weight = model.get("smoothing");
    for (const [key, history] of store.histories) {
      const source = figure.named(`alone:${key}`);
      const keys = history.keys; // not the model's series, which may have changed already
      const columns = Object.fromEntries(keys.map((name) => [name, smoothed(history.columns[name], weight)]));
      if (source) source.data = standingAlone({ ...columns, epoch: history.columns.epoch }, keys);
    }
  }

  /** Show what is to be seen, smoothed or not. */
  function show() {
    if (!figure) return;
    const isSmooth = model.get("smoothing") > 0;
    if (isSmooth) smooth();
    point();
    for (const one of model.get("series")) {
      const [raw, mean] = [line("raw", one), line("smooth", one)];
      if (!raw) continue; // of a chart that is being replaced
      raw.glyph.line_alpha = isSmooth ? FAINT : 1;
      raw.visible = isSeen(one);
      mean.visible = isSmooth && isSeen(one);
      line("alone", one).visible = isSeen(one);
    }
  }

  function mark() {
    if (!figure) return;
    const { info, histories } = store;
    const last = Math.max(0, ...[...histories.values()].map(({ columns }) => columns.epoch.at(-1) ?? 0));
    if (!store.history.length && store.n < 2) return;
    const end = axisEnd(last + 1, info.max_epochs, ENDED.includes(model.get("status")));
    const isAlone = store.n === 1; // of several, each has its best epoch, which their list tells
    placing = true;
    if (isWhole) figure.named("epochs").setv({ start: -0.02 * end, end: 1.02 * end });
    placing = false;
    figure.named("best").location = isAlone ? info.best_epoch ?? null : null;
    figure.named("warm-up").setv({ left: 0, right: info.warm_up_until ?? 0, visible: isAlone && Boolean(info.warm_up_until) });
  }

  function setLog() {
    if (!figure) return;
    const { Bokeh } = figure;
    const plot = figure.named("chart");
    const kind = model.get("log_scale") ? "Log" : "Linear";
    if (plot.y_scale.type === `${kind}Scale`) return;
    const [axis] = plot.left;
    const make = (name, attributes = {}) => new (Bokeh.Models.get(name))(attributes);
    plot.y_scale = make(`${kind}Scale`);
    axis.setv({
      ticker: make(kind === "Log" ? "LogTicker" : "BasicTicker"),
      formatter: make(kind === "Log" ? "LogTickFormatter" : "BasicTickFormatter"),
    });
  }

  return {
    embed, fill, fit, grow, mark, show, setLog, seen,
    setDark(value) { dark = value; colour(); },
    cursor(epoch) { const span = figure?.named("cursor"); if (span) span.location = epoch; },
    /** The epoch below the pointer; null beside the curves. */
    epochAt({ clientX, clientY }) {
      const frame = figure?.view?.frame;
      if (!frame) return null;
      const { left, top } = host.firstElementChild.getBoundingClientRect();
      const [x, y] = [clientX - left, clientY - top];
      return frame.bbox.contains(x, y) ? Math.round(frame.x_scale.invert(x)) : null;
    },
    get view() { return figure?.view; },
  };
}
