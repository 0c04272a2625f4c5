/** Labels now beside another column, as a table whose cells are shaded and select their cells; and how models agree. */
import { percent } from "./bars.js";
import { element, follow, listen } from "./common.js";
import { plural } from "./genes.js";
import { crossed } from "./review.js";

const named = (name) => name || "no value";

export function reviewConfusion(model, signal, { send }) {
  const column = element("select", { class: "scaw-select" });
  const said = element("p", { class: "scaw-hint", style: "margin:2px 0 4px" });
  const host = element("div", { class: "scaw-dots-host", role: "region", tabindex: "-1", "aria-label": "Labels now, and another column" });
  const agreement = element("div");
  const node = element("section", { class: "scaw-part", "aria-label": "Comparison" },
    element("h4", { class: "scaw-part-title" }, "Labels now beside another column"),
    element("div", { class: "scaw-row" }, element("label", { class: "scaw-field-row" }, "Compare with ", column)), said, host, agreement);
  let current = { row: 0, column: 0 };
  let enabled = true;

  const buttonOf = ({ row, column: at }) => host.querySelector(`[data-row="${row}"][data-column="${at}"]`);

  function showChoices() {
    const columns = model.get("columns");
    column.replaceChildren(...["", ...columns].map((name) => element("option", { value: name }, name || "nothing")));
    column.value = model.get("confusion").column ?? "";
  }

  function show() {
    const hadFocus = host.contains(document.activeElement);
    showChoices();
    const confusion = model.get("confusion");
    said.hidden = host.hidden = !confusion.column;
    if (!confusion.column) return host.replaceChildren();
    const { rows, columns, counts, sums, n_rows: nRows, n_columns: nColumns, agree } = confusion;
    const cut = nRows > rows.length || nColumns > columns.length ? ` The most frequent of ${nRows} labels and ${nColumns} values.` : "";
    said.textContent = `${plural(agree, "cell has", "cells have")} the same name in both (${percent(agree / model.get("rule").n)}). Shade: share of a row’s cells.${cut} A number selects its cells.`;
    current = { row: Math.min(current.row, rows.length - 1), column: Math.min(current.column, columns.length - 1) };
    const head = element("tr", {}, element("th", { scope: "col", class: "scaw-left" }, "Label now"),
      ...columns.map((name) => element("th", { scope: "col", class: "scaw-gene", title: named(name) }, element("span", {}, named(name)))));
    host.replaceChildren(element("table", { class: "scaw-program-table scaw-confusion" },
      element("caption", { class: "scaw-quiet" }, `Labels now (rows) and ${confusion.column} (columns), cells`), element("thead", {}, head),
      element("tbody", {}, ...rows.map((label, i) => element("tr", {}, element("th", { scope: "row" }, label),
        ...columns.map((name, j) => {
          const n = counts[i][j];
          const share = n / Math.max(1, sums[i]);
          const words = `${label}, ${named(name)}: ${plural(n, "cell")}, ${percent(share)} of ${label}`;
          return element("td", { class: "scaw-crossing", style: `--scaw-shade:${Math.round(100 * share)}%`, "data-same": label === name },
            element("button", {
              type: "button", "data-row": i, "data-column": j, tabindex: i === current.row && j === current.column ? "0" : "-1",
              "aria-label": words, title: words, "aria-disabled": String(!enabled),
            }, n ? n.toLocaleString("en") : "·"));
        }))))));
    if (hadFocus) buttonOf(current)?.focus({ preventScroll: true });
  }

  function showAgreement() {
    const [shares, models] = [model.get("agreement"), model.get("models")];
    agreement.hidden = models.length < 2;
    if (agreement.hidden) return;
    agreement.replaceChildren(element("details", {}, element("summary", {}, "How the models agree"),
      element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Agreement of the models" },
        element("table", { class: "scaw-table" }, element("caption", { class: "scaw-hint" }, "Share of all cells to which both give the same label."),
          element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Model"), ...models.map((name) => element("th", { scope: "col" }, name)))),
          element("tbody", {}, ...models.map((name, i) => element("tr", {}, element("th", { scope: "row" }, name), ...shares[i].map((share) => element("td", {}, percent(share))))))))));
  }

  function focusOn(place) {
    buttonOf(current)?.setAttribute("tabindex", "-1");
    current = place;
    buttonOf(current)?.setAttribute("tabindex", "0");
    buttonOf(current)?.focus();
  }

  listen(column, "change", () => send({ op: "against", column: column.value || null }), signal);
  listen(host, "click", (event) => {
    const one = event.target.closest("[data-row]");
    if (!one || !enabled) return;
    focusOn({ row: Number(one.dataset.row), column: Number(one.dataset.column) });
    const { rows, columns } = model.get("confusion");
    send({ op: "select", row: rows[current.row], column: columns[current.column] });
  }, signal);
  listen(host, "keydown", (event) => {
    if (!event.target.matches("[data-row]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const { rows, columns } = model.get("confusion");
    const place = crossed(current, event.key, rows.length, columns.length);
    if (!place) return;
    focusOn(place);
    event.preventDefault();
  }, signal);
  follow(model, ["confusion", "columns"], show, signal);
  show();
  showAgreement();
  return { node, setEnabled(wanted) { enabled = wanted; column.disabled = !wanted; show(); } };
}
