import { actionButton, codeDetails, lineToFill } from "./js/actions.js";
import {
  announcer, button, download, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge,
} from "./js/common.js";
import { treeDetail } from "./js/tree_detail.js";
import { treeForms } from "./js/tree_forms.js";
import { found, stepAmongSiblings, toJson, toNewick, toSvg, uppermost } from "./js/tree_model.js";
import { comparePanel, historyPanel, problemsPanel, proposalsPanel } from "./js/tree_panels.js";
import { storeOf } from "./js/tree_store.js";
import { treeView } from "./js/tree_view.js";

const KEYS = [
  ["↑ ↓ Home End Page↑ Page↓", "go to another node"], ["→ ←", "open or close, then go to the child or parent"], ["*", "open all siblings"],
  ["letters", "go to the next name that begins so"], ["Space, Enter", "add to the selection, select this one alone"],
  ["Shift+↑ ↓, Ctrl+A, Esc", "select several, all, none"], ["F2", "rename"], ["Insert, Shift+Insert", "add a child, a sibling"], ["Delete", "delete"],
  ["Ctrl+X, Ctrl+V", "move: cut a node, put it below another"], ["Alt+↑ ↓", "change the order of siblings"],
  ["Ctrl+M, Ctrl+G, Ctrl+E", "merge, group, split"], ["Ctrl+Z, Ctrl+Y", "undo, redo"], ["Ctrl+F", "search, from anywhere in the editor"],
];

/** What a mouse or a key does with the nodes in question. */
function actionsOf({ view, forms, store, edit, rename, announce }) {
  const reorder = (by) => {
    const [node] = view.targets();
    const position = stepAmongSiblings(node, by);
    if (position === null) return announce(`${node.name} is ${by < 0 ? "the first" : "the last"} of its siblings`, true);
    edit({ command: "move", arguments: { nodes: [node.id], parent: node.parent.id, position } }, node.id, node.id);
  };
  const isOne = (nodes) => nodes.length === 1;
  const areUnder = (nodes) => nodes.every(({ parent }) => parent);
  const isUnder = (nodes) => isOne(nodes) && areUnder(nodes);
  const remove = (nodes) => {
    const chosen = new Set(nodes);
    if (nodes.some(({ children }) => children.some((child) => !chosen.has(child)))) return forms.remove(nodes);
    edit({ command: "remove", arguments: { nodes: nodes.map(({ id }) => id) } }, nodes[0].id);
  };
  return [
    { name: "rename", label: "Rename", fits: isOne, act: ([node]) => rename(node) },
    { name: "child", label: "Add child", fits: isOne, act: ([node]) => forms.add(node, false) },
    { name: "sibling", label: "Add sibling", fits: isUnder, act: ([node]) => forms.add(node, true) },
    { name: "remove", label: "Delete", fits: areUnder, act: remove },
    { name: "move", label: "Move…", fits: areUnder, act: (nodes) => forms.move(uppermost(nodes)) },
    { name: "merge", label: "Merge…", fits: () => store.tree.nodes.size > 1, act: (nodes) => forms.merge(nodes) },
    { name: "group", label: "Group…", fits: areUnder, act: (nodes) => forms.group(nodes) },
    { name: "split", label: "Split…", fits: isOne, act: ([node]) => forms.split(node) },
    { name: "up", label: "↑", title: "Up among its siblings", fits: isUnder, act: () => reorder(-1) },
    { name: "down", label: "↓", title: "Down among its siblings", fits: isUnder, act: () => reorder(1) },
    {
      name: "sort", label: "Sort children", fits: (nodes) => isOne(nodes) && nodes[0].children.length > 1,
      act: ([node]) => edit({ command: "reorder", arguments: { node: node.id } }, node.id, node.id),
    },
  ];
}

/** A field in place of a node's name, and words below a node: what was wrong there. */
function atTheNode({ view, edit, signal }) {
  function complain(id, text) {
    const close = button("✕", { "aria-label": "Close" });
    const box = element("div", { class: "scaw-tree-complaint", role: "alert" }, element("span", {}, `✕ ${text}`), close);
    listen(close, "click", () => { view.closeField(); view.focusOn(); }, signal);
    view.openField(view.rowOf(id) ? id : view.here().id, true, box);
  }

  function rename(node) {
    const id = `scaw-rename-${Math.random().toString(36).slice(2, 10)}`;
    const problem = element("div", { class: "scaw-problem", id, role: "alert" });
    const input = element("input", { class: "scaw-input", type: "text", maxlength: "500", "aria-label": `New name of ${node.name}`, "aria-describedby": id, spellcheck: "false" });
    const [keep, cancel] = [button("Keep", { title: "Enter" }), button("Cancel", { title: "Esc" })];
    const close = () => { view.closeField(); view.focusOn(node.id); };
    const submit = () => {
      if (input.value.trim() === node.name) return close();
      edit({ command: "rename", arguments: { node: node.id, name: input.value } }, node.id, node.id, (wrong) => {
        if (wrong) line.refuse(wrong);
        else close();
      });
    };
    const form = element("div", { class: "scaw-tree-rename" }, input, keep, cancel, problem);
    input.value = node.name;
    const line = lineToFill(form, input, problem, { submit, close }, signal);
    listen(keep, "click", submit, signal);
    listen(cancel, "click", close, signal);
    view.openField(node.id, false, form);
    input.focus();
    input.select();
  }

  return { complain, rename };
}

/** What was done, for a screen reader. */
function outcome(tree, { command, arguments: given }, made) {
  const more = ["move", "remove"].includes(command) && given.nodes.length > 1 ? ` and ${given.nodes.length - 1} more` : "";
  if (command === "remove") return more ? `Deleted ${given.nodes.length} nodes` : "Deleted";
  const node = tree.nodes.get(made[0] ?? given.node ?? given.nodes[0]);
  if (!node) return "Done";
  const place = node.parent ? `, ${node.parent.children.indexOf(node) + 1} of ${node.parent.children.length} below ${node.parent.name}` : "";
  const words = { rename: "Renamed to ", add: "Added ", move: "Moved ", merge: "Merged into ", group: "Grouped as ", split: "Split off ", reorder: "Sorted the children of " };
  return `${words[command] ?? ""}${node.name}${more}${words[command] && command !== "reorder" ? place : ": synonyms changed"}`;
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Tree editor");
  const store = storeOf(model);
  const { badge, show: showBadge } = statusBadge();
  const facts = element("span", { class: "scaw-soft" });
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Cell types"), badge, facts));
  const announce = announcer(root, signal);
  let detached = false;
  const editable = () => !detached && !model.get("readonly");

  /** Send an edit. What is wrong is told by `answered`, or else below the node `at`; the focus goes to what was made, or to `then`. */
  function edit(content, at = null, then = null, answered = null) {
    if (!editable()) return;
    if (!answered) view.closeField();
    store.ask({ op: "edit", ...content }, (wrong, made) => {
      if (answered) answered(wrong);
      if (wrong) {
        if (!answered && at !== null) complain(at, wrong);
        return;
      }
      announce(outcome(store.tree, content, made), true);
      if (answered) return;
      view.focusOn(then ?? view.here().id);
    });
  }

  /** For forms: the focus goes to what was made. */
  function askFromForm(content, done) {
    if (!editable()) return;
    store.ask({ op: "edit", ...content }, (wrong, made) => {
      done(wrong);
      if (wrong) return;
      announce(outcome(store.tree, content, made), true);
      const { node, nodes = [node] } = content.arguments;
      view.focusOn(made[0] ?? (store.tree.nodes.has(nodes[0]) ? nodes[0] : view.here().id));
    });
  }

  const travel = (by) => {
    if (!editable()) return;
    view.closeField();
    store.ask({ op: "travel", by }, (wrong) => announce(wrong || `${by < 0 ? "Undone" : "Done again"}. ${model.get("edits").n_done} edits`, true));
  };

  const view = treeView(model, store, signal, {
    act: (command, given, at, then) => edit({ command, arguments: given }, at, then),
    shortcut: (name) => run(name),
    moved: () => showTargets(),
    announce: (text) => announce(text, true),
  });
  const forms = treeForms(store, signal, { ask: askFromForm, back: () => view.focusOn() });
  const { complain, rename } = atTheNode({ view, edit, signal });
  const actions = actionsOf({ view, forms, store, edit, rename, announce });
  const detail = treeDetail(model, store, signal, {
    ask: (content, done = () => 0) => store.ask({ op: "edit", ...content }, (wrong) => {
      done(wrong);
      announce(wrong || "Synonyms changed", true);
    }),
    focusOn: view.focusOn,
  });

  // Buttons

  const buttons = new Map(actions.map(({ name, label, title }) => [name, actionButton(label, () => run(name), signal, {
    "data-action": name, title: title ?? null, "aria-label": title ?? null,
  })]));
  const undo = actionButton("↶ Undo", () => travel(-1), signal, { "data-action": "undo" });
  const redo = actionButton("↷ Redo", () => travel(1), signal, { "data-action": "redo" });
  const acting = element("span", { class: "scaw-hint scaw-tree-acting" });
  const group = (...names) => element("span", { class: "scaw-groups" }, ...names.map((name) => buttons.get(name).node));
  const tools = element("div", { class: "scaw-row scaw-tree-tools", role: "group", "aria-label": "Edit" },
    group("rename", "child", "sibling", "remove"), group("move", "up", "down", "sort"), group("merge", "group", "split"),
    element("span", { class: "scaw-groups" }, undo.node, redo.node), acting);
  const why = element("p", { class: "scaw-hint", hidden: true });

  function run(name) {
    if (name === "undo") return travel(-1);
    if (name === "redo") return travel(1);
    const action = actions.find((one) => one.name === name);
    const nodes = view.targets();
    if (!editable() || !action.fits(nodes)) return announce(`${action.title ?? action.label}: not possible here`, true);
    view.closeField();
    forms.close(false);
    action.act(nodes);
  }

  function showTargets() {
    const nodes = view.targets();
    const can = editable();
    for (const { name, fits } of actions) buttons.get(name).enable(can && fits(nodes));
    acting.textContent = nodes.length > 1 ? `on ${nodes.length.toLocaleString("en")} selected nodes` : `on “${nodes[0].name.slice(0, 40)}”`;
    detail.show(view.here(), true);
  }

  // Layout and search

  const layouts = new Map([["list", button("List", { "aria-pressed": "true" })], ["dendrogram", button("Dendrogram", { "aria-pressed": "false" })]]);
  for (const [name, one] of layouts) {
    listen(one, "click", () => {
      for (const [other, node] of layouts) node.setAttribute("aria-pressed", String(other === name));
      view.setLayout(name);
    }, signal);
  }
  const [open, close] = [button("Open all"), button("Close all")];
  listen(open, "click", () => view.setAll(true), signal);
  listen(close, "click", () => view.setAll(false), signal);
  const search = element("input", { class: "scaw-input", type: "search", placeholder: "name or synonym", spellcheck: "false" });
  const hits = element("span", { class: "scaw-hint", role: "status" });
  listen(root, "keydown", (event) => {
    if (event.key.toLowerCase() !== "f" || !(event.ctrlKey || event.metaKey)) return;
    search.focus();
    search.select();
    event.preventDefault();
  }, signal);
  let matches = [];
  let match = -1;
  function find() {
    matches = found(store.tree, search.value);
    match = -1;
    view.setMatches(matches);
    hits.textContent = search.value.trim() ? (matches.length ? `${matches.length.toLocaleString("en")} found; Enter goes to the next` : "none found") : "";
  }
  listen(search, "input", find, signal);
  listen(search, "keydown", (event) => {
    if (event.key === "Escape" && search.value) {
      search.value = "";
      find();
    } else if (event.key === "Enter" && matches.length) {
      match = (match + (event.shiftKey ? matches.length - 1 : 1)) % matches.length;
      view.focusOn(matches[match], false);
      hits.textContent = `${match + 1} of ${matches.length.toLocaleString("en")}: ${store.tree.nodes.get(matches[match]).name}`;
    } else if (event.key === "ArrowDown") view.focusOn(matches[Math.max(0, match)] ?? view.here().id);
    else return;
    event.preventDefault();
  }, signal);
  listen(store, "tree", () => { if (search.value.trim()) find(); }, signal);

  // Files

  const files = [
    ["Newick", "tree.nwk", "text/plain", () => `${toNewick(store.tree)}\n`],
    ["JSON", "tree.json", "application/json", () => toJson(store.tree, model.get("cells")?.rows ?? [])],
    ["SVG", "tree.svg", "image/svg+xml", () => toSvg(store.tree, view.closed)],
  ].map(([label, name, type, text]) => {
    const one = button(label, { "aria-label": `Save as ${label}` });
    listen(one, "click", () => download(name, new Blob([text()], { type })), signal);
    return one;
  });
  const gone = element("p", { class: "scaw-notice scaw-warning", hidden: true }, element("strong", {}, "▲ The kernel is gone."),
    "The tree is as it was last. Save it as Newick or JSON here, and go on with Hierarchy.from_json.");

  const keys = element("details", { class: "scaw-tree-panel" }, element("summary", {}, "Keys"),
    element("dl", { class: "scaw-tree-keys" }, ...KEYS.flatMap(([key, words]) => [element("dt", {}, key), element("dd", {}, words)])));
  const legend = element("div", { class: "scaw-tree-legend" });
  const bar = element("div", { class: "scaw-row scaw-tree-bar" },
    element("span", { class: "scaw-groups" }, ...layouts.values()), element("span", { class: "scaw-groups" }, open, close),
    element("label", { class: "scaw-field-row" }, "Search ", search), hits,
    element("span", { class: "scaw-groups" }, element("span", { class: "scaw-hint" }, "Save as"), ...files));

  const panels = [
    problemsPanel(model, store, signal, { edit: (content) => edit(content), forms, focusOn: view.focusOn }),
    proposalsPanel(model, store, signal, { ask: (content, done) => store.ask(content, done), focusOn: view.focusOn, announce: (text) => announce(text, true) }),
    historyPanel(model, signal, { travel }),
    comparePanel(model, store, signal, { ask: (content, done) => store.ask(content, done), focusOn: view.focusOn, mark: view.setMarks }),
  ];
  const code = codeDetails(model, signal, announce);
  root.append(gone, bar, tools, why, errorNotice(model, signal), forms.node,
    element("div", { class: "scaw-tree-main" }, element("div", { class: "scaw-tree-left" }, view.node, legend), detail.node),
    ...panels.map(({ node }) => node), keys, code);

  function showLegend() {
    const { batches = [] } = model.get("cells") ?? {};
    legend.hidden = batches.length < 2;
    legend.replaceChildren(...batches.slice(0, 8).map((batch, i) => element("span", {},
      element("span", { class: `scaw-tree-key scaw-batch-${i}`, "aria-hidden": "true" }), batch)), batches.length > 8 ? "… and others in the same colours" : "");
  }

  function show() {
    const readonly = model.get("readonly");
    showBadge(detached ? "detached" : model.get("status"));
    badge.hidden = !detached && !readonly;
    if (!detached && readonly) badge.textContent = "read-only";
    root.dataset.status = detached ? "detached" : readonly ? "readonly" : model.get("status");
    root.dataset.version = String(store.tree.version);
    facts.textContent = model.get("facts");
    gone.hidden = !detached;
    const { n_done: n = 0, n_undone: m = 0 } = model.get("edits");
    undo.enable(editable() && n > 0);
    redo.enable(editable() && m > 0);
    why.hidden = !readonly || detached;
    why.textContent = "This tree can be looked at and saved, not edited.";
    if (!editable()) forms.close(false);
  }

  function enable() {
    view.setEnabled(!detached);
    for (const part of [detail, ...panels]) part.setEnabled(editable());
    show();
    showTargets();
  }

  follow(model, ["status", "facts", "edits"], show, signal);
  follow(model, ["readonly"], enable, signal);
  listen(store, "tree", () => { show(); showLegend(); }, signal);
  showLegend();
  followKernel(model, (isGone) => { detached = isGone; enable(); }, signal);
  enable();
  requestAnimationFrame(() => view.show());
  followTheme(root, () => 0, signal);
  return remove;
}

export default {
  initialize({ model }) {
    storeOf(model);
  },
  render,
};
