import { actionButton, codeDetails } from "./js/actions.js";
import { barsOf, percent } from "./js/bars.js";
import {
  announcer, download, element, errorNotice, follow, followKernel, followMessages, followTheme, frame, listen, statusBadge,
} from "./js/common.js";
import { plural } from "./js/genes.js";
import { remarkElement } from "./js/remarks.js";
import { entryWords } from "./js/review.js";
import { reviewConfusion } from "./js/review_confusion.js";
import { decisionBar } from "./js/review_decide.js";
import { reviewMarkers } from "./js/review_markers.js";
import { reviewQueue } from "./js/review_queue.js";
import { reviewTypes, thresholdSlider } from "./js/review_types.js";

/** By what labels are decided, and what comes of it. */
function rulePart(model, signal, { send, live, settled, isAhead }) {
  const by = element("select", { class: "scaw-select" }, ...model.get("ways").map(([value, words]) => element("option", { value }, words)));
  const way = element("label", { class: "scaw-field-row", hidden: model.get("ways").length < 2 }, "Labels of the ", by);
  const slider = thresholdSlider(model, signal, {
    label: "Threshold of the uncertainty", now: () => model.get("rule").threshold, of: () => null, live, settled,
  });
  const words = element("p", { class: "scaw-result", role: "status" });
  const undo = actionButton("Undo", () => send({ op: "undo" }), signal, { title: "Ctrl+Z" });
  const redo = actionButton("Redo", () => send({ op: "redo" }), signal, { title: "Ctrl+Shift+Z" });
  const node = element("div", { class: "scaw-rule" }, way,
    element("span", { class: "scaw-field-row" }, `${model.get("unknown")} above an uncertainty of `, slider.node),
    element("span", { class: "scaw-groups" }, undo.node, redo.node), words);
  let enabled = true;

  function say(nUnknown) {
    const { n, n_by_hand: byHand, n_differ: differ } = model.get("rule");
    const more = [byHand ? `${byHand.toLocaleString("en")} decided by hand` : "", differ ? `models differ on ${differ.toLocaleString("en")} undecided` : ""];
    words.replaceChildren(element("strong", {}, `${nUnknown.toLocaleString("en")} of ${plural(n, "cell")} (${percent(nUnknown / n)}) ${model.get("unknown")}`),
      ...more.filter(Boolean).map((text) => ` · ${text}`));
  }

  function show() {
    const rule = model.get("rule");
    by.value = rule.by;
    slider.show();
    if (!isAhead()) say(rule.n_unknown);
    const { undo: can, redo: again } = model.get("history");
    undo.enable(enabled && can);
    redo.enable(enabled && again);
  }
  listen(by, "change", () => send({ op: "rule", by: by.value }), signal);
  follow(model, ["rule", "history"], show, signal);
  show();
  return { node, say, show, slider, setEnabled(wanted) { enabled = wanted; by.disabled = !wanted; slider.setEnabled(wanted); show(); } };
}

const GROUPS = (unknown, opened) => [
  ["unknown", `${unknown} (${opened.n_unknown.toLocaleString("en")})`],
  ["kept", `keep the label (${opened.n_kept.toLocaleString("en")})`],
  ["differing", `the models differ on (${opened.n_differing.toLocaleString("en")})`],
  ["undecided", `are undecided (${(opened.n_unknown + opened.n_kept).toLocaleString("en")})`],
];

/** The predicted type that is looked at: its uncertainties, its markers, and decisions on its cells. */
function openedPart(model, signal, { send, announce, live, settled }) {
  const name = element("h4", { class: "scaw-detail-name" });
  const facts = element("p");
  const bars = element("div");
  const own = element("input", { type: "checkbox" });
  const slider = thresholdSlider(model, signal, {
    label: "Threshold of this type", now: () => model.get("opened").threshold, of: () => model.get("opened").label,
    live: (value) => live(value, model.get("opened").label), settled,
  });
  const which = element("select", { class: "scaw-select", "aria-label": "Cells of this type that" });
  const cellsOf = () => {
    const { label } = model.get("opened");
    return label === undefined ? null : { which: which.value, of: label };
  };
  const bar = decisionBar(model, signal, { send, announce, about: "these cells of the type", cellsOf, back: () => which.focus() });
  const select = actionButton("Select in linked views", () => send({ op: "select", ...cellsOf() }), signal);
  const retry = actionButton("Try again", () => send({ op: "retry" }), signal);
  const markers = reviewMarkers(model, signal, retry);
  const ownRow = element("div", { class: "scaw-row" }, element("label", { class: "scaw-check" }, own, "a threshold of its own"), slider.node);
  const node = element("section", { class: "scaw-programs-part scaw-detail scaw-opened", "aria-label": "Open type" }, name, facts, bars, ownRow,
    element("div", { class: "scaw-row" }, element("span", { class: "scaw-field-row" }, "Its cells that ", which)),
    element("div", { class: "scaw-row" }, bar.node, select.node), markers.node);
  let enabled = true;

  function show() {
    const opened = model.get("opened");
    node.hidden = opened.label === undefined;
    if (node.hidden) return;
    const unknown = model.get("unknown");
    const several = model.get("models").length > 1;
    name.textContent = opened.label;
    const isUnknown = opened.label === unknown;
    facts.textContent = isUnknown ? `${plural(opened.n, "cell")} without a predicted label.`
      : `${plural(opened.n, "cell")} predicted; of those undecided ${opened.n_kept.toLocaleString("en")} keep the label, ${opened.n_unknown.toLocaleString("en")} are ${unknown}.`;
    bars.hidden = ownRow.hidden = isUnknown;
    bars.replaceChildren(barsOf(opened.histogram, opened.threshold));
    own.checked = opened.own;
    slider.node.hidden = !opened.own;
    slider.show();
    const chosen = which.value || "unknown";
    which.replaceChildren(...GROUPS(`are ${unknown}`, opened).filter(([value]) => several || value !== "differing").map(([value, words]) => element("option", { value }, words)));
    which.value = chosen;
    bar.show();
    select.enable(enabled);
  }

  listen(own, "change", () => {
    const { label, threshold } = model.get("opened");
    send({ op: "threshold", value: own.checked ? threshold : null, of: label });
    slider.node.hidden = !own.checked;
  }, signal);
  follow(model, ["opened"], show, signal);
  show();
  return {
    node,
    show,
    slider,
    act: (action, label, back) => bar.act(action, { which: "unknown", of: label }, back),
    setEnabled(wanted) {
      enabled = wanted;
      for (const one of [own, which]) one.disabled = !wanted;
      slider.setEnabled(wanted);
      markers.setEnabled(wanted);
      bar.setEnabled(wanted);
      show();
    },
  };
}

/** Decisions on the cells that are selected in this view or a linked one. */
function selectionPart(model, signal, { send, announce }) {
  const words = element("strong");
  const clear = actionButton("Clear", () => send({ op: "select", clear: true }), signal, { "aria-label": "Clear the selection" });
  const bar = decisionBar(model, signal, {
    send, announce, about: "the selected cells", cellsOf: () => (model.get("n_selected") ? { selected: true } : null), back: () => clear.node.focus(),
  });
  const node = element("section", { class: "scaw-part", "aria-label": "Selected cells" },
    element("h4", { class: "scaw-part-title" }, "Selected cells"),
    element("div", { class: "scaw-row" }, words, bar.node, clear.node),
    element("p", { class: "scaw-hint", style: "margin:2px 0" }, "Of this view and of all that share its session: draw around cells in an EmbeddingView, or click a number below."));
  const show = () => {
    words.textContent = plural(model.get("n_selected"), "cell");
    clear.enable(model.get("n_selected") > 0);
    bar.show();
  };
  follow(model, ["n_selected"], show, signal);
  show();
  return { node, setEnabled(enabled) { bar.setEnabled(enabled); clear.enable(enabled && model.get("n_selected") > 0); } };
}

/** The trail, and the column that the labels go to. */
function applyPart(model, signal, { send, announce }) {
  const id = `scaw-apply-${Math.random().toString(36).slice(2, 10)}`;
  const key = element("input", { class: "scaw-input scaw-apply-key", type: "text", maxlength: "200", spellcheck: "false", "aria-describedby": `${id}-problem` });
  const problem = element("span", { class: "scaw-problem", id: `${id}-problem`, role: "alert" });
  const replace = element("input", { type: "checkbox" });
  const replacing = element("label", { class: "scaw-check" }, replace, "replace it");
  const apply = actionButton("Apply", () => send({ op: "apply", key: key.value.trim(), overwrite: replace.checked }), signal, { class: "scaw-button scaw-primary" });
  const keep = actionButton("Keep the trail for later", () => send({ op: "keep" }), signal, { title: "Into uns of the AnnData; no labels are written" });
  const csv = actionButton("Trail as CSV", () => {
    waiting = `${id}-${Math.random().toString(36).slice(2, 8)}`;
    send({ op: "csv", id: waiting });
  }, signal);
  const written = element("p", { style: "margin:2px 0" });
  const list = element("ol", { class: "scaw-trail" });
  const title = element("summary");
  const node = element("section", { class: "scaw-part", "aria-label": "Apply" },
    element("h4", { class: "scaw-part-title" }, "Write the labels"),
    element("div", { class: "scaw-row" }, element("label", { class: "scaw-field-row" }, "Column of obs ", key), replacing, apply.node, keep.node, csv.node),
    problem, written, element("details", {}, title, list));
  let enabled = true;
  let waiting = null;
  let timer = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));

  function show() {
    const target = model.get("target");
    if (document.activeElement !== key) key.value = target.key;
    const stands = target.problem && !(target.replaceable && replace.checked);
    problem.textContent = stands ? target.problem : "";
    key.setAttribute("aria-invalid", String(Boolean(stands)));
    replacing.hidden = !target.replaceable;
    apply.enable(enabled && !stands);
    keep.enable(enabled);
    csv.enable(enabled);
    const all = model.get("written");
    written.hidden = !all.length;
    written.replaceChildren(element("strong", {}, "Written: "), `${all.join(", ")}.`);
    const history = model.get("history");
    title.textContent = `Trail: ${plural(history.n, "entry", "entries")}`;
    const cut = history.n > history.rows.length ? ` (the last ${history.rows.length})` : "";
    title.append(cut);
    const unknown = model.get("unknown");
    list.replaceChildren(...history.rows.map((entry) => element("li", { value: entry.number, "data-undone": entry.undone },
      element("span", {}, entryWords(entry, unknown)), entry.undone ? element("span", { class: "scaw-chip" }, "undone") : null,
      element("span", { class: "scaw-soft" }, ` ${entry.time.replace("T", " ").replace("+00:00", " UTC")}${entry.reviewer ? `, ${entry.reviewer}` : ""}`))));
  }

  listen(key, "input", () => {
    replace.checked = false;
    clearTimeout(timer);
    timer = setTimeout(() => { if (enabled) send({ op: "target", key: key.value.trim() }); }, 150);
  }, signal);
  listen(replace, "change", show, signal);
  followMessages(model, (content) => {
    if (content?.op !== "csv" || content.id !== waiting) return;
    waiting = null;
    download("label_review.csv", new Blob([content.text], { type: "text/csv" }));
    announce("The trail is saved as label_review.csv.", true);
  }, signal);
  follow(model, ["target", "history"], show, signal);
  follow(model, ["written"], () => { replace.checked = false; show(); announce(written.textContent, true); }, signal);
  show();
  return { node, setEnabled(wanted) { enabled = wanted; key.disabled = replace.disabled = !wanted; show(); } };
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Label review");
  const { badge, show: showStatus } = statusBadge();
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Label review"), badge,
    element("span", { class: "scaw-soft" }, model.get("facts"))));
  const announce = announcer(root, signal);
  const notes = element("ul", { class: "scaw-remarks", "aria-label": "Notes" }, ...model.get("notes").map((text) => remarkElement({ level: "note", text })));
  notes.hidden = !notes.childElementCount;
  let detached = false;
  const parts = {};

  /** After a threshold that waits to be sent: what is asked is about the counts that are seen. */
  function send(content) {
    if (detached) return;
    parts.rule.slider.flush();
    parts.opened.slider.flush();
    model.send(content);
  }

  const live = (value, of = null) => parts.rule.say(parts.types.live(value, of));
  const isAhead = () => Boolean(parts.rule?.slider.isAhead() || parts.opened?.slider.isAhead());
  const settled = () => ["rule", "opened", "types"].forEach((name) => parts[name].show());
  const shared = { send, announce, live, settled, isAhead };
  parts.rule = rulePart(model, signal, shared);
  parts.opened = openedPart(model, signal, shared);
  parts.types = reviewTypes(model, signal, { ...shared, decide: (action, label, back) => parts.opened.act(action, label, back) });
  parts.queue = reviewQueue(model, signal, shared);
  parts.selection = selectionPart(model, signal, shared);
  parts.confusion = reviewConfusion(model, signal, shared);
  parts.apply = applyPart(model, signal, shared);
  const code = codeDetails(model, signal, announce);
  root.append(notes, parts.rule.node, errorNotice(model, signal),
    element("div", { class: "scaw-part scaw-programs" }, parts.types.node, parts.opened.node),
    parts.queue.node, parts.selection.node, parts.confusion.node, parts.apply.node, code);

  function show() {
    showStatus(detached ? "detached" : model.get("status"));
    root.dataset.status = detached ? "detached" : model.get("status");
    for (const part of Object.values(parts)) part.setEnabled(!detached);
  }
  listen(root, "keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.closest("input[type=text], input[type=number]")) return;
    send({ op: event.shiftKey ? "redo" : "undo" });
    event.preventDefault();
  }, signal);
  follow(model, ["status"], show, signal);
  followKernel(model, (gone) => { detached = gone; show(); }, signal);
  show();
  followTheme(root, () => {}, signal);
  return remove;
}

export default { render };
