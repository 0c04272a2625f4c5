/** The table of ranked gene programs, with its filters: arrows move in it, Enter opens a program, F2 renames it. */
import { nextOption } from "./cells.js";
import { breakable, button, element, follow, listen } from "./common.js";
import { barOf, decimals, listedRows, odds } from "./programs.js";

const FIRST_ROWS = 200;
const PAGE = 12;

export function barElement(value, largest, signed) {
  const { start, length } = barOf(value, largest, signed);
  return element("span", { class: signed ? "scaw-track scaw-track-signed" : "scaw-track", "aria-hidden": "true" },
    element("span", { class: value < 0 ? "scaw-fill scaw-fill-down" : "scaw-fill", style: `left:${start}%;width:${length}%` }));
}

const valueCell = (value, largest, signed) =>
  element("td", {}, element("span", { class: "scaw-value" }, barElement(value, largest, signed), element("span", {}, decimals(value, signed))));

const genesIn = (row) => (row.set ? row.n.toLocaleString("en") : "any");

/** What stands in the columns beside number and name. */
function columnsOf(ranking, rows) {
  const largest = Math.max(0, ...rows.map((row) => Math.abs(row.value)));
  const genes = { head: "Genes", title: "Genes annotated with the program that are in the model", cell: (row) => element("td", {}, genesIn(row)) };
  if (ranking.kind === "activity") {
    return [
      { head: "Activity (SD)", title: "Standard deviation of the activity among the cells", left: true, cell: (row) => valueCell(row.value, largest, false) },
      { head: "Mean", title: "Mean activity of the cells", wide: true, cell: (row) => element("td", { class: "scaw-wide" }, decimals(row.mean, true)) },
      genes,
    ];
  }
  return [
    { head: "Bayes factor", title: "Logarithm of the odds; beyond ±2.3 they are 10 to 1", left: true, cell: (row) => valueCell(row.value, largest, true) },
    { head: "Odds", title: "That a cell of one group has more of it than one of the other", left: true, cell: (row) => element("td", { class: "scaw-left scaw-odds" }, odds(row.value, ranking.first, ranking.second)) },
    { head: "Shift", title: "Difference of the mean activities", wide: true, cell: (row) => element("td", { class: "scaw-wide" }, decimals(row.mean, true)) },
    { ...genes, wide: true, cell: (row) => element("td", { class: "scaw-wide" }, genesIn(row)) },
  ];
}

export function programList(model, signal, { renames, announce }) {
  const id = `scaw-programs-${Math.random().toString(36).slice(2, 10)}`;
  const search = element("input", { class: "scaw-input", type: "search", placeholder: "part of a name", maxlength: "200", spellcheck: "false" });
  const least = element("input", { class: "scaw-input", type: "number", min: "0", max: "1000000", step: "1" });
  const gene = element("input", { class: "scaw-input", type: "text", maxlength: "200", spellcheck: "false", placeholder: "e.g. ISG15", "aria-describedby": `${id}-gene` });
  const problem = element("span", { class: "scaw-problem", id: `${id}-gene`, role: "alert" });
  const off = element("input", { type: "checkbox" });
  const count = element("p", { class: "scaw-hint", style: "margin:2px 0 4px" });
  const caption = element("caption", { class: "scaw-quiet" });
  const [head, body] = [element("thead"), element("tbody")];
  const table = element("table", { class: "scaw-program-table" }, caption, head, body);
  const more = button("");
  const host = element("div", { class: "scaw-program-list", role: "region", "aria-label": "Gene programs", tabindex: "-1" }, table);
  const node = element("div", { class: "scaw-programs-part" },
    element("div", { class: "scaw-row" },
      element("label", { class: "scaw-field-row" }, "Search ", search),
      element("label", { class: "scaw-field-row" }, "With gene ", gene),
      element("label", { class: "scaw-field-row" }, "At least ", least, " genes"),
      element("label", { class: "scaw-check" }, off, "Switched-off ones too")),
    problem, count, host, more,
    element("p", { class: "scaw-hint", style: "margin:4px 0 0" }, "Keys: ↑ ↓ move, Enter opens, F2 renames"));
  let shown = []; // rows on the page
  let current = null; // the program that Tab leads to
  let all = false;
  let stale = false; // something changed while a name was being typed
  let enabled = true;

  const buttonOf = (i) => body.querySelector(`[data-i="${i}"]`);
  const filters = () => ({
    search: model.get("search"), least: model.get("least_genes"), off: model.get("with_switched_off"), having: model.get("with_gene").terms ?? null,
  });

  function focusOn(i) {
    if (current !== null) buttonOf(current)?.setAttribute("tabindex", "-1");
    current = i;
    const one = buttonOf(i);
    one?.setAttribute("tabindex", "0");
    one?.focus();
  }

  function chips(row) {
    return [
      row.on ? null : element("span", { class: "scaw-chip" }, "switched off"),
      row.unclear ? element("span", { class: "scaw-chip scaw-chip-warn", title: "About as many of its genes go down as up" }, "direction unclear") : null,
    ].filter(Boolean);
  }

  function show() {
    if (renames.busy()) {
      stale = true;
      return;
    }
    stale = false;
    const hadFocus = body.contains(document.activeElement);
    const [ranking, terms] = [model.get("ranking"), model.get("terms")];
    const { i: open } = model.get("opened");
    const rows = ranking.rows ?? [];
    const listed = listedRows(rows, terms, filters());
    const places = new Map(rows.map(({ i }, place) => [i, place + 1]));
    shown = all ? listed : listed.slice(0, FIRST_ROWS);
    if (!shown.some(({ i }) => i === current)) current = (shown.find(({ i }) => i === open) ?? shown[0])?.i ?? null;
    const columns = columnsOf(ranking, rows);
    const names = [{ head: "Rank" }, { head: "Program", left: true }, ...columns];
    head.replaceChildren(element("tr", {}, ...names.map((one) => element("th", {
      scope: "col", title: one.title, class: [one.left && "scaw-left", one.wide && "scaw-wide"].filter(Boolean).join(" ") || null,
    }, one.head))));
    body.replaceChildren(...shown.map((row) => element("tr", { "data-open": row.i === open },
      element("td", {}, String(places.get(row.i))),
      element("th", { scope: "row" }, element("button", {
        type: "button", class: "scaw-term", "data-i": row.i, tabindex: row.i === current ? "0" : "-1", "aria-pressed": String(row.i === open),
        "aria-disabled": String(!enabled),
      }, ...breakable(terms[row.i]), ...chips(row))),
      ...columns.map((one) => one.cell(row)))));
    caption.textContent = `Gene programs by ${ranking.kind === "activity" ? "activity" : `Bayes factor, ${ranking.title}`}`;
    const hidden = rows.length - listed.length;
    count.textContent = listed.length ? `${listed.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} programs listed`
      : rows.length ? `None of the ${hidden.toLocaleString("en")} programs is like this. Ask for less above.` : "";
    more.hidden = listed.length === shown.length;
    more.textContent = `List all ${listed.length.toLocaleString("en")}`;
    host.hidden = !listed.length;
    if (hadFocus && current !== null) buttonOf(current)?.focus({ preventScroll: true });
  }

  function showOpen() {
    const { i: open } = model.get("opened");
    for (const one of body.querySelectorAll("[data-i]")) {
      const isOpen = Number(one.dataset.i) === open;
      one.setAttribute("aria-pressed", String(isOpen));
      one.closest("tr").toggleAttribute("data-open", isOpen);
    }
  }

  function showFilters() {
    if (document.activeElement !== search) search.value = model.get("search");
    if (document.activeElement !== least) least.value = String(model.get("least_genes"));
    const asked = model.get("with_gene");
    if (document.activeElement !== gene || asked.gene) gene.value = asked.gene ?? "";
    problem.textContent = asked.problem ?? "";
    gene.setAttribute("aria-invalid", String(Boolean(asked.problem)));
    off.checked = model.get("with_switched_off");
  }

  let waiting = null;
  function filter(name, value, wait = 0) {
    if (model.get(name) === value) return;
    model.set(name, value); // shown at once
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (enabled) model.save_changes(); }, wait);
    announce(count.textContent);
  }

  function rename(i) {
    const one = buttonOf(i);
    if (!one || !enabled) return;
    renames.begin(one, i, () => {
      if (stale) show();
      focusOn(i);
    });
  }

  listen(search, "input", () => filter("search", search.value, 150), signal);
  listen(least, "input", () => filter("least_genes", Math.max(0, Math.min(1e6, Math.round(Number(least.value) || 0))), 150), signal);
  listen(off, "change", () => filter("with_switched_off", off.checked), signal);
  listen(gene, "change", () => model.send({ op: "gene", gene: gene.value.trim() }), signal);
  listen(more, "click", () => { all = true; show(); if (current !== null) buttonOf(current)?.focus(); }, signal);
  listen(body, "click", (event) => {
    const one = event.target.closest("[data-i]");
    if (!one) return;
    focusOn(Number(one.dataset.i));
    if (enabled) model.send({ op: "open", i: current });
  }, signal);
  listen(body, "dblclick", (event) => {
    const one = event.target.closest("[data-i]");
    if (one) rename(Number(one.dataset.i));
  }, signal);
  listen(body, "keydown", (event) => {
    if (!event.target.matches("[data-i]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = shown.findIndex(({ i }) => i === current);
    const target = nextOption(at, event.key, shown.length, PAGE);
    if (target !== null) focusOn(shown[target].i);
    else if (event.key === "F2") rename(current);
    else return;
    event.preventDefault();
  }, signal);
  const showAll = () => { showFilters(); show(); };
  follow(model, ["ranking", "terms", "search", "least_genes", "with_switched_off", "with_gene"], showAll, signal);
  follow(model, ["opened"], showOpen, signal);
  follow(model, ["status"], () => host.setAttribute("aria-busy", String(model.get("status") === "running")), signal);
  showAll();

  return {
    node,
    setEnabled(wanted) {
      enabled = wanted;
      gene.disabled = !wanted;
      for (const one of body.querySelectorAll("[data-i]")) one.setAttribute("aria-disabled", String(!wanted));
    },
  };
}
