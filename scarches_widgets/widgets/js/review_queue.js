/** A page of cells, the most uncertain first: arrows move, letters decide, Page Up and Page Down turn pages. */
import { nextOption } from "./cells.js";
import { actionButton } from "./actions.js";
import { element, follow, listen } from "./common.js";
import { plural } from "./genes.js";
import { decisionBar, decisionOf } from "./review_decide.js";

const WHICH = (unknown) => [
  ["unknown", `are ${unknown}`], ["differing", "the models differ on"], ["kept", "keep their label"], ["undecided", "are undecided"],
  ["decided", "were decided by hand"], ["all", "there are"],
];

export function reviewQueue(model, signal, { send, announce }) {
  const of = element("select", { class: "scaw-select", "aria-label": "Of which type" });
  const which = element("select", { class: "scaw-select", "aria-label": "Which cells" });
  const count = element("p", { class: "scaw-hint" });
  const [head, body] = [element("tr"), element("tbody")];
  const table = element("table", { class: "scaw-program-table scaw-queue" },
    element("caption", { class: "scaw-quiet" }, "Cells to review, the most uncertain first"), element("thead", {}, head), body);
  const host = element("div", { class: "scaw-program-list", role: "region", "aria-label": "Cells to review", tabindex: "-1" }, table);
  const before = actionButton("‹", () => turn(-1), signal, { "aria-label": "Previous page", title: "Page Up" });
  const after = actionButton("›", () => turn(1), signal, { "aria-label": "Next page", title: "Page Down" });
  const select = actionButton("Select in linked views", () => send({ op: "select", cell: model.get("queue").current }), signal);
  let enabled = true;
  let current = null;
  let takesFocus = false; // when a page is turned by a key, the new current cell does
  const buttonOf = (cell) => body.querySelector(`[data-cell="${cell}"]`);
  const back = () => (buttonOf(current) ?? which).focus({ preventScroll: true });
  const bar = decisionBar(model, signal, {
    send, announce, about: "this cell", back, cellsOf: () => (current === null ? null : { cell: current }),
  });
  const pages = element("span", { class: "scaw-groups" }, before.node, after.node);
  const node = element("section", { class: "scaw-part", "aria-label": "Cells to review" },
    element("h4", { class: "scaw-part-title" }, "Cells, the most uncertain first"),
    element("div", { class: "scaw-row" }, element("span", { class: "scaw-field-row" }, "Cells of ", of, " that ", which)),
    element("div", { class: "scaw-queue-pages" }, pages, count), host,
    element("div", { class: "scaw-row" }, bar.node, select.node),
    element("p", { class: "scaw-hint scaw-keys" }, "Keys: ↑ ↓ move, A accepts, R relabels, X rejects, C comments, Page Up and Page Down turn pages, Ctrl+Z undoes"));

  const uncertainty = (value) => element("span", { class: "scaw-value" },
    element("span", { class: "scaw-track", "aria-hidden": "true" }, element("span", { class: "scaw-fill", style: `left:0;width:${100 * value}%` })),
    element("span", {}, value.toFixed(2)));

  function showChoices() {
    const queue = model.get("queue");
    const names = model.get("types").map(({ label }) => label);
    of.replaceChildren(...[["", "all types"], ...names.map((name) => [`of:${name}`, name])].map(([value, words]) => element("option", { value }, words)));
    of.value = queue.of === null ? "" : `of:${queue.of}`;
    const several = model.get("models").length > 1;
    which.replaceChildren(...WHICH(model.get("unknown")).filter(([value]) => several || value !== "differing").map(([value, words]) => element("option", { value }, words)));
    which.value = queue.which;
  }

  function rowOf(row, cell, models) {
    const several = models.length > 1;
    const state = row.kind ? [element("span", { class: "scaw-chip" }, row.kind === "relabelled" ? `→ ${row.now}` : row.kind)] : [];
    const others = row.says.some(({ label }) => label !== row.label) ? [element("span", { class: "scaw-hint scaw-narrow" }, row.says.map(({ label, uncertainty: value }, i) => `${models[i]}: ${label} ${value.toFixed(2)}`).join(" · "))] : [];
    const said = row.comment ? [element("span", { class: "scaw-hint" }, `“${row.comment}”`)] : [];
    return element("tr", { "data-open": cell === current },
      element("th", { scope: "row" }, element("button", {
        type: "button", class: "scaw-term", "data-cell": cell, tabindex: cell === current ? "0" : "-1", "aria-pressed": String(cell === current),
        "aria-disabled": String(!enabled),
      }, row.name)),
      element("td", { class: "scaw-left" }, row.label, ...state, ...said, ...others),
      element("td", {}, uncertainty(row.uncertainty)),
      ...(several ? row.says.map(({ label, uncertainty: value }) => element("td", { class: `scaw-left scaw-wide${label === row.label ? "" : " scaw-differs"}` },
        label, element("span", { class: "scaw-soft" }, ` ${value.toFixed(2)}`))) : []));
  }

  function show() {
    const queue = model.get("queue");
    const hadFocus = takesFocus || body.contains(document.activeElement);
    takesFocus = false;
    showChoices();
    current = queue.current;
    const models = model.get("models");
    const several = models.length > 1;
    head.replaceChildren(element("th", { scope: "col", class: "scaw-left" }, "Cell"), element("th", { scope: "col", class: "scaw-left" }, "Predicted"),
      element("th", { scope: "col", class: "scaw-left" }, "Uncertainty"),
      ...(several ? models.map((name) => element("th", { scope: "col", class: "scaw-left scaw-wide" }, name)) : []));
    body.replaceChildren(...queue.rows.map((row, i) => rowOf(row, queue.cells[i], models)));
    host.hidden = !queue.n;
    const last = queue.start + queue.rows.length;
    count.textContent = queue.n ? `${(queue.start + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${plural(queue.n, "cell")}` : "No cells are like this.";
    before.enable(enabled && queue.start > 0);
    after.enable(enabled && last < queue.n);
    select.enable(enabled && current !== null);
    bar.show();
    if (hadFocus) (buttonOf(current) ?? which).focus({ preventScroll: true });
  }

  function look(cell) {
    if (cell === current) return;
    const old = buttonOf(current);
    old?.setAttribute("tabindex", "-1");
    old?.setAttribute("aria-pressed", "false");
    old?.closest("tr").removeAttribute("data-open");
    current = cell;
    const one = buttonOf(cell);
    one.setAttribute("tabindex", "0");
    one.setAttribute("aria-pressed", "true");
    one.closest("tr").setAttribute("data-open", "");
    if (enabled) send({ op: "look", cell });
  }

  function turn(by) {
    const { start, page } = model.get("queue");
    send({ op: "list", start: start + by * page });
  }

  listen(of, "change", () => send({ op: "list", of: of.value === "" ? null : of.value.slice("of:".length) }), signal);
  listen(which, "change", () => send({ op: "list", which: which.value }), signal);
  listen(body, "click", (event) => {
    const one = event.target.closest("[data-cell]");
    if (one) look(Number(one.dataset.cell));
  }, signal);
  listen(body, "keydown", (event) => {
    if (!event.target.matches("[data-cell]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const { cells, start, page, n } = model.get("queue");
    const action = decisionOf(event);
    if (event.key === "PageDown" || event.key === "PageUp") {
      const by = event.key === "PageDown" ? 1 : -1;
      if (enabled && start + by * page >= 0 && start + by * page < n) {
        takesFocus = true;
        turn(by);
      }
    } else if (action) bar.act(action);
    else {
      const target = nextOption(cells.indexOf(current), event.key, cells.length);
      if (target === null) return;
      look(cells[target]);
      buttonOf(current).focus();
    }
    event.preventDefault();
  }, signal);
  follow(model, ["queue", "types"], show, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; of.disabled = which.disabled = !wanted; bar.setEnabled(wanted); show(); } };
}
