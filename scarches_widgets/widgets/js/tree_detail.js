/** What is known of one node: its place, synonyms with their evidence, cells by batch. */
import { actionButton } from "./actions.js";
import { button, element, listen } from "./common.js";
import { pathOf, percent, total } from "./tree_model.js";

const MATCHES = {
  perfect: "one label, one node", split: "one of several labels of a node", merge: "a label above several nodes", new: "no node matched",
  attached: "attached without a match",
};

export function treeDetail(model, store, signal, { ask, focusOn }) {
  const node_ = element("section", { class: "scaw-tree-detail", "aria-label": "The node in focus" });
  let shown = null;
  let enabled = true;

  function aliasRow(node, alias) {
    const of = alias.dataset === null ? "any data set" : alias.dataset;
    const evidence = alias.match ? `${MATCHES[alias.match] ?? alias.match}: ${percent(alias.share_of_label)} of the label's cells, ${percent(alias.share_of_node)} of the node's` : "";
    const drop = button("✕", { class: "scaw-button scaw-tree-drop", "aria-label": `Forget the synonym ${alias.name} of ${of}`, title: "Forget this synonym" });
    drop.disabled = !enabled;
    listen(drop, "click", () => ask({ command: "drop_alias", arguments: { node: node.id, alias: alias.name, dataset: alias.dataset } }), signal);
    return element("li", {}, element("span", {}, element("strong", {}, alias.name), element("span", { class: "scaw-soft" }, ` in ${of}`),
      evidence ? element("span", { class: "scaw-tree-evidence" }, evidence) : null), drop);
  }

  function cellsOf(node) {
    const { batches = [], key } = model.get("cells") ?? {};
    if (!batches.length) return element("p", { class: "scaw-soft" }, "No cells were counted.");
    const isLeaf = !node.children.length;
    const rows = batches.map((batch, i) => [batch, node.own[i] ?? 0, node.below[i] ?? 0]);
    const row = ([name, own, below], i) => element("tr", {}, element("th", { scope: "row" },
      batches.length > 1 && i !== null ? element("span", { class: `scaw-tree-key scaw-batch-${i % 8}`, "aria-hidden": "true" }) : null, name),
    element("td", {}, own.toLocaleString("en")), isLeaf ? null : element("td", {}, below.toLocaleString("en")));
    const caption = element("caption", {}, `Cells${key ? ` by ${key}` : ""}`);
    return element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Cells of the node" },
      element("table", { class: "scaw-table" }, caption, element("thead", {}, element("tr", {},
        ...[batches.length > 1 ? "Batch" : "", ...(isLeaf ? ["Cells"] : ["Own", "With below"])].map((text) => element(text ? "th" : "td", text ? { scope: "col" } : {}, text)))),
      element("tbody", {}, ...rows.map(row), ...(batches.length > 1 ? [row(["all", total(node.own), total(node.below)], null)] : []))));
  }

  function show(node) {
    shown = node.id;
    const aliases = node.aliases.filter((alias) => alias.name !== node.name || alias.dataset !== null);
    const path = pathOf(node).slice(0, -1);
    const crumbs = path.map((one) => {
      const link = button(one.name, { class: "scaw-tree-crumb" });
      listen(link, "click", () => focusOn(one.id), signal);
      return element("li", {}, link);
    });
    const id = `scaw-alias-${Math.random().toString(36).slice(2, 10)}`;
    const field = element("input", { class: "scaw-input", type: "text", maxlength: "500", spellcheck: "false", "aria-label": "Another name for it", placeholder: "another name", "aria-describedby": id });
    const problem = element("span", { class: "scaw-problem", id, role: "alert" });
    const note = () => ask({ command: "add_alias", arguments: { node: node.id, alias: field.value.trim() } }, (wrong) => {
      problem.textContent = wrong;
      field.setAttribute("aria-invalid", String(Boolean(wrong)));
      if (wrong) return;
      field.value = "";
      const noted = store.tree.nodes.get(node.id); // its news may have come before this answer
      if (noted && shown === node.id) renew(noted, true);
    });
    const add = actionButton("Add synonym", note, signal);
    add.enable(enabled);
    field.disabled = !enabled;
    listen(field, "keydown", (event) => { if (event.key === "Enter") { note(); event.preventDefault(); } }, signal);
    node_.replaceChildren(...[
      crumbs.length ? element("nav", { "aria-label": "Nodes above" }, element("ol", { class: "scaw-tree-crumbs" }, ...crumbs)) : null,
      element("h4", { class: "scaw-detail-name" }, node.name),
      element("p", { class: "scaw-soft" }, node.children.length
        ? `${node.children.length.toLocaleString("en")} ${node.children.length === 1 ? "child" : "children"}, ${(store.tree.order(node).length - 1).toLocaleString("en")} below it in all` : "A leaf"),
      cellsOf(node),
      element("h5", { class: "scaw-tree-heading" }, aliases.length ? "Synonyms" : "No synonyms"),
      aliases.length ? element("ul", { class: "scaw-tree-aliases" }, ...aliases.map((alias) => aliasRow(node, alias))) : null,
      element("div", { class: "scaw-row" }, field, add.node), problem].filter(Boolean));
  }

  /** Show a node anew, unless something is being typed here about it. */
  function renew(node, isNews) {
    const typing = node_.contains(document.activeElement) && document.activeElement.matches("input") && document.activeElement.value;
    if (node.id === shown && (!isNews || typing)) return;
    const focus = node_.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    show(node);
    if (focus) (node_.querySelector(`[aria-label="${CSS.escape(focus)}"]`) ?? node_.querySelector("input"))?.focus({ preventScroll: true });
  }

  return {
    node: node_,
    show: renew,
    setEnabled(wanted) { enabled = wanted; shown = null; },
  };
}
