/** A suite's own forms: which cells, which model, which labels make the tree, and what is written where. */
import { actionButton } from "./actions.js";
import { element, follow, listen } from "./common.js";

const ROLES = {
  reference: ["Reference", "Cells with labels, to train on and to map onto."],
  query: ["Query", "Your cells, to be mapped."],
  tissue: ["Tissue", "Cells with coordinates in obsm['spatial']; only for step Tissue."],
};

/** A name to fill in and a button; Enter does what the button does. */
function fileForm(label, value, action, act, list, signal) {
  const input = element("input", { class: "scaw-input", type: "text", value, list, spellcheck: "false", autocomplete: "off", maxlength: "1000" });
  const go = actionButton(action, () => act(input.value), signal, { "aria-label": `${action}: ${label}` });
  const node = element("form", { class: "scaw-file" }, element("label", {}, element("span", {}, label), input), go.node);
  listen(node, "submit", (event) => { event.preventDefault(); }, signal);
  listen(input, "keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    go.node.click();
  }, signal);
  return { node, input, enable: go.enable };
}

/** Which groups of which column of the reference become the query. */
function takeForm(model, send, signal) {
  const column = element("select", { class: "scaw-select" });
  const groups = element("fieldset", { class: "scaw-suite-groups" });
  const chosen = () => [...groups.querySelectorAll("input:checked")].map((box) => box.value);
  const go = actionButton("Take these cells", () => send({ op: "take", column: column.value, groups: chosen() }), signal);
  const node = element("details", {}, element("summary", {}, "Take it out of the reference"),
    element("div", { class: "scaw-file" }, element("label", {}, element("span", {}, "By column"), column)), groups, go.node);
  let known = "";

  function showGroups() {
    const names = model.get("columns")[column.value] ?? [];
    groups.replaceChildren(element("legend", { class: "scaw-quiet" }, `Groups of ${column.value} that are the query`),
      ...names.map((name) => element("label", {}, element("input", { type: "checkbox", value: name }), name)));
  }

  function show() {
    const columns = model.get("columns");
    const now = JSON.stringify(columns);
    node.hidden = !Object.keys(columns).length;
    if (now === known) return;
    known = now;
    const before = column.value;
    const usual = ["batch", "donor", "sample"].find((name) => name in columns);
    column.replaceChildren(...Object.keys(columns).map((name) => element("option", { value: name }, name)));
    column.value = before in columns ? before : usual ?? Object.keys(columns)[0] ?? "";
    showGroups();
  }

  listen(column, "change", showGroups, signal);
  follow(model, ["columns"], show, signal);
  show();
  return { node, enable: go.enable };
}

export function dataForm(model, send, prefix, signal) {
  const list = element("datalist", { id: `${prefix}-files` });
  const parts = [];
  const roles = Object.entries(ROLES).map(([role, [title, hint]]) => {
    const facts = element("p", {});
    const file = fileForm(`File of the ${role}`, "", "Open", (path) => send({ op: "read", role, path }), list.id, signal);
    const node = element("section", { class: "scaw-role", "aria-label": title }, element("h4", {}, title), facts, file.node);
    const show = () => {
      const said = model.get("facts")[role];
      facts.textContent = said || hint;
      facts.classList.toggle("scaw-soft", !said);
    };
    follow(model, ["facts"], show, signal);
    show();
    parts.push(file);
    if (role === "query") {
      const take = takeForm(model, send, signal);
      parts.push(take);
      node.append(take.node);
    }
    return node;
  });
  const showFiles = () => list.replaceChildren(...model.get("files").map((value) => element("option", { value })));
  follow(model, ["files"], showFiles, signal);
  showFiles();
  return {
    node: element("div", { class: "scaw-roles" }, ...roles, list),
    enable(enabled) { parts.forEach((part) => part.enable(enabled)); },
  };
}

/** Which model to train. */
export function modelForm(model, send, signal) {
  const select = element("select", { class: "scaw-select" });
  const node = element("div", { class: "scaw-row scaw-suite-form" }, element("label", {}, "Model ", select));
  const show = () => {
    const { models, model: name } = model.get("choices");
    select.replaceChildren(...models.map((value) => element("option", { value }, value)));
    select.value = name;
  };
  listen(select, "change", () => send({ op: "model", name: select.value }), signal);
  follow(model, ["choices", "error"], show, signal);
  show();
  return { node, enable(enabled) { select.disabled = !enabled; } };
}

/** Of which columns the tree is made. */
export function treeForm(model, send, signal) {
  const [coarse, fine] = ["Coarse labels", "Fine labels"].map((label) => {
    const select = element("select", { class: "scaw-select" });
    return { select, node: element("label", {}, element("span", {}, label), select) };
  });
  const keys = () => [coarse.select.value, fine.select.value].filter(Boolean);
  const go = actionButton("Make the tree", () => send({ op: "tree", keys: keys() }), signal);
  const form = element("div", { class: "scaw-file" }, coarse.node, fine.node, go.node);
  const node = element("details", { class: "scaw-suite-form" }, element("summary", {}, "A tree of the reference's labels"),
    element("p", { class: "scaw-hint" }, "A new tree takes the place of the one below and of its edits."), form);
  const show = () => {
    const { labels, has_tree: hasTree } = model.get("choices");
    const options = (first) => [element("option", { value: "" }, first), ...labels.map((value) => element("option", { value }, value))];
    const [before, after] = [coarse.select.value, fine.select.value];
    coarse.select.replaceChildren(...options("none: one level"));
    fine.select.replaceChildren(...options("choose a column"));
    coarse.select.value = labels.includes(before) ? before : "";
    fine.select.value = labels.includes(after) ? after : labels.find((name) => /cell_?type|label/i.test(name)) ?? "";
    if (!hasTree) node.open = true;
    node.hidden = !labels.length;
  };
  follow(model, ["choices"], show, signal);
  show();
  return { node, enable: go.enable };
}

const WRITES = [
  ["cells", "Cells with their labels", "mapped.h5ad"],
  ["report", "Report, one page", "report.html"],
  ["session", "Session, a small file", "session.scaw.json"],
  ["model", "Model, a folder", "models/mine"],
];

/** What is written where. */
export function shareForm(model, send, signal) {
  const replace = element("input", { type: "checkbox" });
  const parts = WRITES.map(([what, label, name]) =>
    fileForm(label, name, "Write", (path) => send({ op: "write", what, path, replace: replace.checked }), null, signal));
  const load = fileForm("Session to take up again", "session.scaw.json", "Load", (path) => send({ op: "load", path }), null, signal);
  const written = element("ul", { class: "scaw-remarks", "aria-label": "Written" });
  const show = () => written.replaceChildren(...model.get("written").map((text) => element("li", {}, `✓ ${text}`)));
  follow(model, ["written"], show, signal);
  show();
  return {
    node: element("div", { class: "scaw-share" }, element("h4", {}, "Write"),
      element("div", { class: "scaw-shares" }, ...parts.map((part) => part.node), load.node),
      element("label", { class: "scaw-row" }, replace, "Replace what exists"), written),
    enable(enabled) { [...parts, load].forEach((part) => part.enable(enabled)); },
  };
}
