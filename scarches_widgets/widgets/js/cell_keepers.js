/** Who knows the cells of a view: the page, which was sent them all, or, of many, the kernel, which is told what to select. */
import { combine, countOf, countsOf, inverse, maskBetween, maskOfCode, pack, summaryOf, typed, unpack } from "./cells.js";

/**
 * The cells are here. A keeper has the name of the trait that tells of the selection (`read` reads it anew), the `coloring`,
 * and counts; `choose` selects the cells of a category (`{ code }`), with numbers (`{ low, high }`), or "all", "none" and
 * "inverse" (`{ what }`).
 * @param isDetached says whether the kernel is gone: then a selection stays in the page
 */
export function keptHere(model, n, isDetached) {
  let mask = unpack(model.get("selected"), n);
  let coloring = null;

  /** Tell the model; it tells all its views, this one too. */
  function select(wanted) {
    const bits = pack(wanted);
    model.set("selected", new DataView(bits.buffer));
    if (!isDetached()) model.save_changes();
  }

  function cellsOf({ code, low, high, what }) {
    if (code !== undefined) return maskOfCode(coloring.values, code);
    if (low !== undefined) return maskBetween(coloring.values, low, high);
    return what === "inverse" ? inverse(mask) : new Uint8Array(n).fill(what === "all" ? 1 : 0);
  }

  return {
    trait: "selected",
    read() { mask = unpack(model.get("selected"), n); },
    colour() {
      const content = model.get("coloring");
      coloring = { ...content, values: typed(content.values, content.dtype) };
      return coloring;
    },
    mask: () => mask,
    count: () => countOf(mask),
    counts: () => countsOf(coloring.values, coloring.names.length, mask),
    summaries: () => [new Uint8Array(n).fill(1), mask].map((of) => summaryOf(coloring.values, of)),
    select,
    choose: (what, mode = "replace") => select(combine(mask, cellsOf(what), mode)),
  };
}

/** The cells are in the kernel. */
export function keptThere(model, isDetached) {
  const send = (content) => { if (!isDetached()) model.send(content); };
  const end = (value) => (Number.isFinite(value) ? value : null); // JSON knows no infinity
  let coloring = null;
  return {
    trait: "tally",
    read() {},
    colour() {
      coloring = model.get("coloring");
      return coloring;
    },
    mask: () => null,
    count: () => model.get("tally").n,
    counts() { // of the colours that were read: the page is told of new colours and of their counts one after the other
      const { all = [], selected = [] } = model.get("tally");
      const n = coloring.names.length;
      const whole = (counts) => (counts.length === n ? counts : new Array(n).fill(0));
      return { all: whole(all), selected: whole(selected) };
    },
    summaries: () => ["all", "selected"].map((name) => {
      const { n, min, median, mean, max } = model.get("tally")[name] ?? { n: 0 };
      return { n: n ?? 0, min, median, mean, max };
    }),
    choose({ low, high, ...what }, mode = "replace") {
      send({ op: "choose", ...what, ...(low === undefined ? {} : { low: end(low), high: end(high) }), mode });
    },
    surround: (pane, corners, mode) => send({ op: "surround", pane, ...corners, mode }),
    look: (pane, view, seen) => send({ op: "look", pane, view, ...seen }),
  };
}
