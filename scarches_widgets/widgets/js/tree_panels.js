/** Beside the tree: its problems, what was proposed, the history of edits, what differs from another tree. */
import { button, element, follow, listen } from "./common.js";
import { percent } from "./tree_model.js";

const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function panel(title, ...parts) {
  const summary = element("summary", {}, title);
  return { summary, node: element("details", { class: "scaw-tree-panel" }, summary, ...parts) };
}

const PROBLEMS = {
  "near-duplicate": "Nearly the same name", "label-not-in-tree": "Label not in the tree", "ambiguous-label": "Ambiguous label", "empty-leaf": "Leaf without cells",
  "single-child": "Single child",
};

/** Draw the rows of a list anew and focus again what had the focus, or what is now in its row. */
function keepingFocus(list, draw) {
  const had = list.contains(document.activeElement) ? document.activeElement : null;
  const place = [...list.children].findIndex((row) => row.contains(had));
  draw();
  if (!had) return;
  const again = [...list.querySelectorAll("[data-key]")].find((one) => one.dataset.key === had.dataset.key);
  const row = list.children[Math.min(place, list.children.length - 1)];
  (again ?? row?.querySelector("[data-key]") ?? list.closest("details").querySelector("summary")).focus({ preventScroll: true });
}

export function problemsPanel(model, store, signal, { edit, forms, focusOn }) {
  const list = element("ul", { class: "scaw-tree-rows", tabindex: "0", "aria-label": "Problems" });
  const note = element("p", { class: "scaw-hint" });
  const again = button("Show those set aside");
  const { summary, node } = panel("Problems", list, note, again);
  let enabled = true;

  function row(problem) {
    const { kind, nodes, message, label } = problem;
    const known = nodes.map((id) => store.tree.nodes.get(id)).filter(Boolean);
    const act = (text, todo) => {
      const one = button(text, { "data-key": `${message}-${text}` });
      one.disabled = !enabled;
      listen(one, "click", todo, signal);
      return one;
    };
    const buttons = [];
    if (known.length) buttons.push(act("Show", () => focusOn(known[0].id)));
    if (kind === "near-duplicate" || kind === "single-child") buttons.push(act("Merge…", () => forms.merge(store.tree.sorted(nodes))));
    if (kind === "empty-leaf" && known[0]?.parent) buttons.push(act("Delete", () => edit({ command: "remove", arguments: { nodes: [nodes[0]] } })));
    if (label !== null) buttons.push(act("Add a node…", () => forms.addLabel(label)), act("It is a synonym…", () => forms.addAlias(label)));
    const aside = act("Set aside", () => model.send({ op: "keep", problem: message }));
    return element("li", {}, element("span", {}, element("strong", {}, `${PROBLEMS[kind] ?? kind}: `), message), element("span", { class: "scaw-row" }, ...buttons, aside));
  }

  function show() {
    const { rows = [], n = 0, n_kept: kept = 0 } = model.get("problems");
    summary.textContent = n ? `Problems (${n.toLocaleString("en")})` : "Problems: none found";
    node.toggleAttribute("data-alert", n > 0);
    note.textContent = [n > rows.length ? `The first ${rows.length} are listed.` : "", kept ? `${count(kept, "problem")} set aside.` : "",
      n || kept ? "" : "Names are not alike, and all labels that were counted are in the tree."].filter(Boolean).join(" ");
    note.hidden = !note.textContent;
    again.hidden = !kept;
    again.disabled = !enabled;
    if (node.open) keepingFocus(list, () => list.replaceChildren(...rows.map(row)));
  }

  listen(again, "click", () => model.send({ op: "keep", problem: null }), signal);
  listen(node, "toggle", show, signal);
  follow(model, ["problems"], show, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; show(); } };
}

const KINDS = {
  perfect: { title: "Match", words: "One label and one node are the same type: the label becomes a synonym." },
  split: { title: "Split", words: "Several labels are parts of one node: they become its children." },
  merge: { title: "Merge", words: "One label stands for several nodes: it goes above them." },
  new: { title: "New", words: "Its cells are like no node's: a new node below the root." },
  attached: { title: "Attached", words: "It matched nothing clearly, and goes below the root." },
  impossible: { title: "No place", words: "It matches nodes that cannot have one parent, so no edit is proposed." },
};
const STATES = { open: "", accepted: "accepted", vetoed: "vetoed" };

export function proposalsPanel(model, store, signal, { ask, focusOn, announce }) {
  const list = element("ol", { class: "scaw-tree-rows scaw-tree-proposals", tabindex: "0", "aria-label": "Proposals" });
  const all = button("Accept all that are open");
  const { summary, node } = panel("Proposals", element("p", { class: "scaw-hint" },
    "What learn_tree found when each data set predicted the other's labels. Later ones may need earlier ones."),
  list, element("div", { class: "scaw-row" }, all));
  const problems = new Map(); // place -> what was wrong when it was accepted
  let enabled = true;
  let told = false;

  function judge(i, verdict) {
    ask({ op: "judge", i, verdict }, (wrong) => {
      if (wrong) problems.set(i, wrong);
      else problems.delete(i);
      announce(wrong || { accept: "Accepted", veto: "Vetoed", reopen: "Open again" }[verdict]);
      show();
    });
  }

  const isAcceptable = ({ state, kind }) => state === "open" && kind !== "impossible";

  function acceptAll() {
    model.get("proposals").forEach((one, i) => { if (isAcceptable(one)) judge(i, "accept"); });
  }

  function evidence(one) {
    if (!one.matches.length) return null;
    return element("table", { class: "scaw-table" }, element("caption", { class: "scaw-quiet" }, "Evidence"),
      element("thead", {}, element("tr", {}, ...["Label", "Node", "Of the label's cells", "Of the node's cells"].map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...one.matches.map(({ label, node: name, share_of_label: ours, share_of_node: theirs }) => element("tr", {},
        element("th", { scope: "row" }, label), element("td", { class: "scaw-left" }, name),
        ...[[ours, "of the label's cells"], [theirs, "of the node's cells"]].map(([share, of]) => element("td", {},
          share === null ? null : element("meter", { min: "0", max: "1", value: share, "aria-label": `${percent(share)} ${of}` }), ` ${percent(share)}`))))));
  }

  function row(one, i) {
    const { title, words } = KINDS[one.kind] ?? { title: one.kind, words: "" };
    const act = (text, verdict, attributes = {}) => {
      const node_ = button(text, { "data-key": `${i}-${text}`, "aria-label": `${text}: ${title}, ${one.labels.join(", ")}`, ...attributes });
      node_.disabled = !enabled;
      listen(node_, "click", () => judge(i, verdict), signal);
      return node_;
    };
    const nodes = [...store.tree.nodes.values()];
    const there = nodes.find(({ name }) => name === one.nodes[0]) ?? nodes.find(({ aliases }) => aliases.some(({ name }) => name === one.nodes[0]));
    const buttons = [];
    if (isAcceptable(one)) buttons.push(act("Accept", "accept", { class: "scaw-button scaw-primary" }));
    if (one.state === "open") buttons.push(act("Veto", "veto"));
    if (one.state === "vetoed") buttons.push(act("Consider again", "reopen"));
    if (there) {
      const look = button("Show node", { "data-key": `${i}-show`, "aria-label": `Show node ${there.name}` });
      listen(look, "click", () => focusOn(there.id), signal);
      buttons.push(look);
    }
    const problem = problems.get(i);
    return element("li", { "data-state": one.state },
      element("div", { class: "scaw-tree-proposal" },
        element("span", { class: `scaw-chip scaw-kind-${one.kind}` }, title),
        element("span", {}, element("strong", {}, one.labels.join(", ")), element("span", { class: "scaw-soft" }, ` of ${one.dataset}`),
          one.nodes.length ? ` → ${one.nodes.join(", ")}` : ""),
        STATES[one.state] ? element("span", { class: "scaw-chip" }, STATES[one.state]) : null),
      one.state === "open" ? element("p", { class: "scaw-hint" }, words) : null,
      one.state === "open" ? evidence(one) : null,
      problem ? element("p", { class: "scaw-problem", role: "alert" }, problem) : null,
      element("div", { class: "scaw-row" }, ...buttons));
  }

  function show() {
    const proposals = model.get("proposals");
    node.hidden = !proposals.length;
    const n = proposals.filter(({ state }) => state === "open").length;
    const hadFocus = document.activeElement === all;
    all.hidden = !proposals.some(isAcceptable);
    all.disabled = !enabled;
    if (hadFocus && all.hidden) summary.focus();
    summary.textContent = `Proposals (${n ? `${n.toLocaleString("en")} open` : "all decided"})`;
    if (n && !told) node.open = told = true;
    if (node.open) keepingFocus(list, () => list.replaceChildren(...proposals.map(row)));
  }

  listen(all, "click", acceptAll, signal);
  listen(node, "toggle", show, signal);
  follow(model, ["proposals"], show, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; show(); } };
}

export function historyPanel(model, signal, { travel }) {
  const list = element("ol", { class: "scaw-tree-rows scaw-tree-history", tabindex: "0", "aria-label": "Edits" });
  const note = element("p", { class: "scaw-hint" });
  const all = button("Undo all");
  const { summary, node } = panel("History", note, list, element("div", { class: "scaw-row" }, all));
  let enabled = true;

  function show() {
    const { n_done: n = 0, n_undone: m = 0, done = [], undone = [] } = model.get("edits");
    summary.textContent = `History (${count(n, "edit")}${m ? `, ${m.toLocaleString("en")} undone` : ""})`;
    note.textContent = n + m === 0 ? "Nothing has been edited yet." : n > done.length ? `The last ${done.length} of ${n.toLocaleString("en")} edits.` : "";
    note.hidden = !note.textContent;
    all.hidden = !n;
    all.disabled = !enabled;
    if (!node.open) return;
    const row = (words, by, label, isUndone) => {
      const back = button(label, { "data-key": words, "aria-label": `${label}: ${words}` });
      back.disabled = !enabled;
      listen(back, "click", () => travel(by), signal);
      return element("li", { "data-undone": isUndone }, element("span", {}, words), back);
    };
    keepingFocus(list, () => list.replaceChildren(
      ...undone.map((words, i) => row(words, undone.length - i, "Redo to here", true)),
      ...done.map((words, i) => row(words, i - done.length, "Undo to before this", false)).reverse()));
  }

  listen(all, "click", () => travel(-model.get("edits").n_done), signal);
  listen(node, "toggle", show, signal);
  follow(model, ["edits"], show, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; show(); } };
}

const CHANGES = {
  added: ({ after }) => `added below ${after}`,
  removed: ({ before }) => `removed from below ${before}`,
  renamed: ({ before }) => `was called ${before}`,
  moved: ({ before, after }) => `moved from ${before || "the top"} to ${after || "the top"}`,
  aliases: ({ before, after }) => `synonyms: ${before || "none"} → ${after || "none"}`,
};
const MARKS = { added: "new", renamed: "renamed", moved: "moved" };
const SIGNS = { added: "+", removed: "−", renamed: "✎", moved: "→", aliases: "=" };

export function comparePanel(model, store, signal, { ask, focusOn, mark }) {
  const name = `scaw-compare-${Math.random().toString(36).slice(2, 10)}`;
  const radios = ["", "start", "other"].map((value) => element("input", { type: "radio", name, value }));
  const labels = ["nothing", "this tree before all edits", "another tree"].map((words, i) => element("label", { class: "scaw-check" }, radios[i], words));
  const field = element("textarea", { class: "scaw-input scaw-tree-newick", rows: "2", spellcheck: "false", "aria-label": "A tree in Newick format", placeholder: "(('CD4 T','CD8 T')'T cell','B cell')'root';" });
  const problem = element("p", { class: "scaw-problem", role: "alert" });
  const go = button("Compare with this tree");
  const words = element("p", { class: "scaw-hint", role: "status" });
  const list = element("ul", { class: "scaw-tree-rows", tabindex: "0", "aria-label": "Differences" });
  const paste = element("details", {}, element("summary", {}, "Paste a tree in Newick format"), field, problem, element("div", { class: "scaw-row" }, go));
  const { summary, node } = panel("Compare", element("fieldset", { class: "scaw-ways" }, element("legend", { class: "scaw-quiet" }, "Compare with"), ...labels), paste, words, list);
  let enabled = true;

  function show() {
    const comparing = model.get("comparing");
    const { rows = [], n = 0, has_other: hasOther = false } = model.get("difference");
    radios.forEach((radio) => { radio.checked = radio.value === comparing; radio.disabled = !enabled || (radio.value === "other" && !hasOther); });
    summary.textContent = comparing ? `Compare (${count(n, "difference")})` : "Compare";
    words.textContent = !comparing ? "" : !n ? "The trees are the same." : n > rows.length ? `The first ${rows.length} of ${n.toLocaleString("en")} differences.` : "";
    words.hidden = !words.textContent;
    const byName = new Map([...store.tree.nodes.values()].map((one) => [one.name, one]));
    const marks = new Map();
    for (const { node: of, change } of rows) {
      const one = change === "removed" ? null : byName.get(of);
      if (one && MARKS[change]) marks.set(one.id, [marks.get(one.id), MARKS[change]].filter(Boolean).join(", "));
    }
    mark(marks);
    keepingFocus(list, () => list.replaceChildren(...rows.map((row, i) => {
      const one = row.change === "removed" ? null : byName.get(row.node);
      const look = one ? button("Show", { "data-key": String(i), "aria-label": `Show ${row.node}` }) : null;
      if (look) listen(look, "click", () => focusOn(one.id), signal);
      return element("li", { class: `scaw-change-${row.change}` }, element("span", {}, element("span", { class: "scaw-tree-sign", "aria-hidden": "true" }, SIGNS[row.change]),
        element("strong", {}, row.node), ` ${CHANGES[row.change](row)}`), look);
    })));
  }

  for (const radio of radios) listen(radio, "change", () => { model.set("comparing", radio.value); model.save_changes(); }, signal);
  listen(go, "click", () => ask({ op: "compare", newick: field.value }, (wrong) => {
    problem.textContent = wrong;
    field.setAttribute("aria-invalid", String(Boolean(wrong)));
  }), signal);
  follow(model, ["comparing", "difference"], show, signal);
  listen(store, "tree", show, signal);
  show();
  return {
    node,
    setEnabled(wanted) {
      enabled = wanted;
      go.disabled = !wanted;
      show();
    },
  };
}
