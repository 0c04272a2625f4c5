/** The rule, with its threshold, and the predicted types: how many cells of each are Unknown, live while it is dragged. */
import { percent } from "./bars.js";
import { nextOption } from "./cells.js";
import { breakable, element, follow, listen, wishes } from "./common.js";
import { ORDERS, ordered, unknownAt } from "./review.js";
import { decisionOf } from "./review_decide.js";

const INTERVAL = 120; // milliseconds between two thresholds that are sent

/**
 * A slider whose value is sent at most every `INTERVAL` milliseconds, and before anything else is; the answer to an
 * earlier value does not take back a later one.
 * @param now returns the threshold as the kernel knows it
 * @param of returns the label whose own it is; null: of all
 * @param live is called with each value while it is dragged
 * @param settled is called when an answer has not come
 */
export function thresholdSlider(model, signal, { label, now, of, live, settled }) {
  const range = element("input", { type: "range", min: "0", max: "1", step: "0.01", class: "scaw-slider", "aria-label": label });
  const number = element("input", { type: "number", min: "0", max: "1", step: "0.01", class: "scaw-input", "aria-label": `${label}, as a number` });
  const node = element("span", { class: "scaw-threshold-field" }, range, number);
  const wished = wishes(settled, signal);
  let waiting = null;
  let timer = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  const name = () => String(of());
  const asked = () => wished.over({ [name()]: now() })[name()];
  const meant = () => waiting ?? asked();

  function flush() {
    clearTimeout(timer);
    timer = 0;
    if (waiting === null) return;
    wished.add({ [name()]: waiting });
    model.send({ op: "threshold", value: waiting, of: of() });
    waiting = null;
  }

  /** The kernel is not asked again before it has answered. */
  function soon() {
    timer = setTimeout(() => (asked() === now() ? flush() : soon()), INTERVAL);
  }

  function take(text) {
    const value = Math.max(0, Math.min(1, Math.round(100 * Number(text)) / 100));
    if (text === "" || !Number.isFinite(value)) return;
    if (document.activeElement !== number) number.value = value;
    range.value = value;
    waiting = value;
    live(value);
    if (!timer) soon();
  }
  for (const one of [range, number]) {
    listen(one, "input", () => take(one.value), signal);
    listen(one, "change", flush, signal);
  }
  return {
    node,
    flush,
    show() {
      const value = meant();
      range.value = value;
      if (document.activeElement !== number || Number(number.value) !== value) number.value = value;
    },
    /** Whether the page is ahead of the kernel. */
    isAhead: () => meant() !== now(),
    setEnabled(enabled) { range.disabled = number.disabled = !enabled; },
  };
}

const barOf = (share) => element("span", { class: "scaw-track", "aria-hidden": "true" },
  element("span", { class: "scaw-fill", style: `left:0;width:${100 * share}%` }));

/**
 * @param decide what a key on a type does: `decide(action, label, back)`
 * @param isAhead says whether a threshold is being dragged
 */
export function reviewTypes(model, signal, { send, decide, isAhead }) {
  const order = element("select", { class: "scaw-select", "aria-label": "Order of the types" },
    ...ORDERS.filter(([value]) => value !== "differ" || model.get("models").length > 1).map(([value, words]) => element("option", { value }, words)));
  const body = element("tbody");
  const head = element("tr");
  const table = element("table", { class: "scaw-program-table scaw-types" },
    element("caption", { class: "scaw-quiet" }, "Predicted types, and how many of their cells are Unknown"), element("thead", {}, head), body);
  const host = element("div", { class: "scaw-program-list", role: "region", "aria-label": "Predicted types", tabindex: "-1" }, table);
  const node = element("div", { class: "scaw-programs-part" },
    element("div", { class: "scaw-row" }, element("h4", { class: "scaw-part-title" }, "Predicted types"), element("label", { class: "scaw-field-row" }, "first the ", order)),
    host,
    element("p", { class: "scaw-hint scaw-keys" }, "Keys: ↑ ↓ move, Enter opens; A accepts, R relabels, X rejects, C comments on a type’s cells above the threshold"));
  let current = null; // the type that Tab leads to; "" is all
  let shown = [];
  let live = null; // counts at a threshold that is being dragged
  let enabled = true;

  const buttonOf = (i) => body.querySelector(`[data-i="${i}"]`);

  function counts() {
    const rows = model.get("types");
    if (!live) return rows.map((row) => row.unknown);
    const bytes = model.get("above");
    const above = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    return unknownAt(above, rows, live.value, live.of);
  }

  function cellsOf(row, i, unknown, several) {
    const share = unknown / row.n;
    return [
      element("td", {}, row.n.toLocaleString("en")),
      element("td", { "data-unknown": i }, element("span", { class: "scaw-value" }, barOf(share), element("span", {}, percent(share)))),
      element("td", { class: "scaw-wide" }, row.mean.toFixed(2)),
      ...(several ? [element("td", { class: "scaw-wide" }, percent(row.differ / row.n))] : []),
      element("td", {}, row.by_hand ? row.by_hand.toLocaleString("en") : "–"),
    ];
  }

  function show() {
    if (!isAhead()) live = null;
    const hadFocus = body.contains(document.activeElement);
    const rows = model.get("types").map((row, i) => ({ ...row, i }));
    const several = model.get("models").length > 1;
    const unknown = counts();
    const of = model.get("queue").of;
    shown = ordered(rows, order.value);
    head.replaceChildren(
      element("th", { scope: "col", class: "scaw-left" }, "Type"), element("th", { scope: "col" }, "Cells"),
      element("th", { scope: "col", class: "scaw-left" }, model.get("unknown")),
      element("th", { scope: "col", class: "scaw-wide", title: "Mean uncertainty, 0 to 1" }, "Uncertainty"),
      ...(several ? [element("th", { scope: "col", class: "scaw-wide", title: "Share of cells on which the models do not agree" }, "Differ")] : []),
      element("th", { scope: "col", title: "Cells that were decided by hand" }, "By hand"));
    if (!shown.some(({ i }) => i === current)) current = shown.find(({ label }) => label === of)?.i ?? shown[0]?.i ?? null;
    body.replaceChildren(...shown.map((row) => element("tr", { "data-open": row.label === of },
      element("th", { scope: "row" }, element("button", {
        type: "button", class: "scaw-term", "data-i": row.i, tabindex: row.i === current ? "0" : "-1", "aria-pressed": String(row.label === of),
        "aria-disabled": String(!enabled),
      }, ...breakable(row.label), row.own === null ? null : element("span", { class: "scaw-chip" }, `above ${row.own}`))),
      ...cellsOf(row, row.i, unknown[row.i], several))));
    if (hadFocus && current !== null) buttonOf(current)?.focus({ preventScroll: true });
  }

  function showLive() {
    const unknown = counts();
    for (const { i, n } of shown) {
      const share = unknown[i] / n;
      const cell = body.querySelector(`[data-unknown="${i}"]`);
      cell.querySelector(".scaw-fill").style.width = `${100 * share}%`;
      cell.querySelector(".scaw-value > :last-child").textContent = percent(share);
    }
    return unknown.reduce((sum, count) => sum + count, 0);
  }

  function focusOn(i) {
    buttonOf(current)?.setAttribute("tabindex", "-1");
    current = i;
    buttonOf(i)?.setAttribute("tabindex", "0");
    buttonOf(i)?.focus();
  }

  const rowOf = (i) => shown.find((row) => row.i === i);
  const open = (i) => send({ op: "list", of: model.get("queue").of === rowOf(i).label ? null : rowOf(i).label });

  listen(order, "change", show, signal);
  listen(body, "click", (event) => {
    const one = event.target.closest("[data-i]");
    if (!one || !enabled) return;
    focusOn(Number(one.dataset.i));
    open(current);
  }, signal);
  listen(body, "keydown", (event) => {
    if (!event.target.matches("[data-i]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = nextOption(shown.findIndex(({ i }) => i === current), event.key, shown.length, 8);
    const action = decisionOf(event);
    if (target !== null) focusOn(shown[target].i);
    else if (action && enabled) decide(action, rowOf(current).label, () => focusOn(current));
    else return;
    event.preventDefault();
  }, signal);
  follow(model, ["types", "queue", "unknown"], show, signal);
  show();
  return {
    node,
    /** Counts at a threshold of all types (`of` null) or of one that is being dragged; how many are Unknown then. */
    live(value, of) {
      live = { value, of };
      return showLive();
    },
    show,
    setEnabled(wanted) {
      enabled = wanted;
      for (const one of body.querySelectorAll("[data-i]")) one.setAttribute("aria-disabled", String(!wanted));
    },
  };
}
