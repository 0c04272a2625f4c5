import { actionButton, codeDetails } from "./js/actions.js";
import { cellMap } from "./js/cell_map.js";
import {
  announcer, button, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge,
} from "./js/common.js";
import { programDetail } from "./js/program_detail.js";
import { programList } from "./js/program_list.js";
import { remarkElement } from "./js/remarks.js";
import { renamer } from "./js/rename.js";

const options = (pairs, chosen) => pairs.map(([value, text]) => element("option", { value, selected: value === chosen }, text));

/** Fill a menu, and keep what is chosen in it unless `chosen` says otherwise. */
function fill(select, pairs, chosen = select.value) {
  const there = pairs.some(([value]) => value === chosen);
  select.replaceChildren(...options(pairs, there ? chosen : pairs[0]?.[0]));
}

/** By what programs are ranked. */
function rankingForm(model, signal) {
  const name = `scaw-rank-${Math.random().toString(36).slice(2, 10)}`;
  const radio = (value) => element("input", { type: "radio", name, value });
  const radios = Object.fromEntries(["activity", "groups", "selections"].map((kind) => [kind, radio(kind)]));
  const [column, group, comparison] = ["Column", "Group", "Compared to"].map((label) => element("select", { class: "scaw-select", "aria-label": label }));
  const marks = Object.fromEntries(["A", "B"].map((which) => {
    const words = element("span");
    const keep = button(`Keep selection as ${which}`, { "data-mark": which });
    const forget = button("✕", { "aria-label": `Forget ${which}`, "data-forget": which });
    listen(keep, "click", () => model.send({ op: "mark", name: which }), signal);
    listen(forget, "click", () => { model.send({ op: "mark", name: which, remove: true }); keep.focus(); }, signal);
    return [which, { words, keep, forget, node: element("span", { class: "scaw-mark" }, words, keep, forget) }];
  }));
  const ofGroups = element("div", { class: "scaw-row" },
    element("span", { class: "scaw-field-row" }, column, group, element("span", { class: "scaw-soft" }, "against"), comparison));
  const ofSelections = element("div", { class: "scaw-row" }, marks.A.node, marks.B.node);
  const of = element("select", { class: "scaw-select", title: "Its genes: how far the model raises them, whichever programs it does it by. Its latent: what it adds to the other programs." },
    ...options([["genes", "its genes"], ["latents", "its latent alone"]]));
  const reason = element("span", { class: "scaw-hint", id: `${name}-reason` });
  const kind = () => Object.keys(radios).find((one) => radios[one].checked);
  const compare = actionButton("Compare", () => send(), signal, { class: "scaw-button scaw-primary", "aria-describedby": reason.id });
  const go = element("div", { class: "scaw-row" }, compare.node, reason);
  const notes = element("ul", { class: "scaw-remarks", "aria-label": "Warnings" });
  const node = element("fieldset", { class: "scaw-part" }, element("legend", { class: "scaw-part-title" }, "Rank programs by"),
    element("div", { class: "scaw-ways" },
      element("label", {}, radios.activity, "activity"),
      element("label", {}, radios.groups, "difference between groups"),
      element("label", {}, radios.selections, "difference between selections A and B"),
      element("label", { class: "scaw-field-row" }, "Read a program from ", of)),
    element("div", { class: "scaw-contrast" }, ofGroups, ofSelections, go), notes);
  let enabled = true;

  function send() {
    if (kind() !== "groups") return model.send({ op: "rank", kind: kind() });
    const other = comparison.value.slice("group:".length);
    model.send({ op: "rank", kind: "groups", column: column.value, group: group.value.slice("group:".length), comparison: comparison.value === "" ? null : other });
  }

  /** Why nothing can be compared; empty if it can. */
  function missing() {
    const { A, B } = model.get("marked");
    if (kind() === "groups") return column.value ? "" : "obs has no column of 2 to 500 groups.";
    if (A !== null) return "";
    return model.get("selected") && B === null ? "Draw around some cells on the picture below, then keep them as A." : "Keep a selection as A first.";
  }

  function showForm() {
    const now = kind();
    ofGroups.hidden = now !== "groups";
    ofSelections.hidden = now !== "selections";
    go.hidden = now === "activity";
    const why = missing();
    reason.textContent = why;
    compare.enable(enabled && !why);
    const marked = model.get("marked");
    for (const [which, { words, keep, forget }] of Object.entries(marks)) {
      const n = marked[which];
      words.replaceChildren(element("strong", {}, `${which}: `), n === null ? (which === "B" ? "all others" : "no cells yet") : `${n.toLocaleString("en")} cells`);
      forget.hidden = n === null;
      keep.disabled = !enabled;
      forget.disabled = !enabled;
    }
  }

  function showGroups(chosen = {}) {
    const levels = model.get("groupings")[column.value] ?? [];
    const pairs = levels.map((level) => [`group:${level}`, level]);
    fill(group, pairs, chosen.group === undefined ? group.value : `group:${chosen.group}`);
    showOthers(chosen);
  }

  function showOthers(chosen = {}) {
    const levels = (model.get("groupings")[column.value] ?? []).filter((level) => `group:${level}` !== group.value);
    const wanted = chosen.comparison === undefined ? comparison.value : chosen.comparison === null ? "" : `group:${chosen.comparison}`;
    fill(comparison, [["", "all others"], ...levels.map((level) => [`group:${level}`, level])], wanted);
  }

  function showContrast() {
    const contrast = model.get("contrast");
    radios[contrast.kind].checked = true;
    fill(column, Object.keys(model.get("groupings")).map((one) => [one, one]), contrast.column);
    showGroups(contrast);
    showForm();
  }

  function showNotes() {
    const texts = model.get("ranking").notes ?? [];
    notes.replaceChildren(...texts.map((text) => remarkElement({ level: "warning", text })));
    notes.hidden = !texts.length;
  }

  for (const one of Object.values(radios)) {
    listen(one, "change", () => {
      showForm();
      if (kind() === "activity") send();
    }, signal);
  }
  listen(of, "change", () => model.send({ op: "of", of: of.value }), signal);
  listen(column, "change", () => { showGroups(); showForm(); }, signal);
  listen(group, "change", () => showOthers(), signal);
  follow(model, ["contrast", "groupings"], showContrast, signal);
  follow(model, ["marked"], showForm, signal);
  follow(model, ["of"], () => { of.value = model.get("of"); }, signal);
  follow(model, ["ranking"], showNotes, signal);
  showContrast();
  showNotes();
  of.value = model.get("of");
  return {
    node,
    setEnabled(wanted) {
      enabled = wanted;
      for (const one of [...Object.values(radios), column, group, comparison, of]) one.disabled = !wanted;
      showForm();
    },
  };
}

/** The cells: where they are drawn, and in which colours. */
function cellsPart(model, root, signal) {
  const place = element("select", { class: "scaw-select" });
  const against = element("select", { class: "scaw-select" });
  const color = element("select", { class: "scaw-select" });
  const pair = element("label", { class: "scaw-field-row" }, "against ", against);
  const host = element("div", {}, element("p", { class: "scaw-soft" }, "The cells are drawn when their activities are known."));
  const node = element("section", { class: "scaw-part", "aria-label": "Cells" }, element("h4", { class: "scaw-part-title" }, "Cells"),
    element("div", { class: "scaw-row" },
      element("label", { class: "scaw-field-row" }, "Place cells by ", place), pair, element("label", { class: "scaw-field-row" }, "Colour by ", color)),
    host);
  let map = null;
  let dark = false;
  let gone = false;

  function showChoices() {
    const { basis, against: other, bases = [] } = model.get("sight");
    const [terms, opened, ranking] = ["terms", "opened", "ranking"].map((name) => model.get(name));
    fill(place, [...bases.map(([key, words]) => [`basis:${key}`, words]), ["", "activity of two programs"]], basis === null ? "" : `basis:${basis}`);
    pair.hidden = basis !== null;
    const ranked = (ranking.rows ?? []).filter(({ i, on }) => on && i !== opened.i);
    fill(against, ranked.map(({ i }) => [String(i), terms[i]]), String(other));
    const [paint, columns, { key }] = ["paint", "columns", "coloring"].map((name) => model.get(name));
    const pairs = [["activity", "activity of the open program"]];
    if (ranking.kind === "contrast") pairs.push(["groups", "the groups compared"]);
    pairs.push(["color:", "nothing"], ...columns.map((name) => [`color:${name}`, name]));
    if (key !== null && !columns.includes(key)) pairs.push([`color:${key}`, `${key} (gene)`]);
    fill(color, pairs, paint === "color" ? `color:${key ?? ""}` : paint);
    root.dataset.paint = paint;
  }

  function showMap() {
    if (map || !model.get("positions")?.byteLength) return;
    map = cellMap(model, root, signal);
    map.setDetached(gone);
    map.setDark(dark);
    host.replaceChildren(map.node);
  }

  listen(place, "change", () => model.send({ op: "look", basis: place.value === "" ? null : place.value.slice("basis:".length) }), signal);
  listen(against, "change", () => model.send({ op: "look", against: Number(against.value) }), signal);
  listen(color, "change", () => {
    const { value } = color;
    if (!value.startsWith("color:")) model.send({ op: "paint", paint: value });
    else model.send({ op: "color", key: value.slice("color:".length) || null });
  }, signal);
  follow(model, ["sight", "terms", "opened", "ranking", "columns", "coloring", "paint"], showChoices, signal);
  follow(model, ["positions"], showMap, signal);
  showChoices();
  showMap();
  return {
    node,
    setDark(isDark) { dark = isDark; map?.setDark(isDark); },
    setEnabled(enabled) {
      gone = !enabled;
      map?.setDetached(gone);
      for (const one of [place, against, color]) one.disabled = gone;
    },
  };
}

/** Buttons that write activities into the AnnData, and what they have written. */
function writingPart(model, signal, announce) {
  const one = actionButton("This program to obs", () => model.send({ op: "write", what: "term" }), signal);
  const shown = actionButton("… and colour linked views by it", () => model.send({ op: "write", what: "term", show: true }), signal);
  const every = actionButton("All programs to obsm", () => model.send({ op: "write", what: "all" }), signal);
  const written = element("p", { style: "margin:2px 0" });
  const show = () => {
    const all = model.get("written");
    written.hidden = !all.length;
    written.replaceChildren(element("strong", {}, "Written: "), `${all.join(", ")}.`);
  };
  follow(model, ["written"], () => { show(); announce(written.textContent, true); }, signal);
  show();
  return {
    node: element("section", { class: "scaw-part", "aria-label": "Write activities" }, element("h4", { class: "scaw-part-title" }, "Write activities into the AnnData"),
      element("div", { class: "scaw-row" }, one.node, shown.node, every.node), written),
    setEnabled(enabled) { for (const button_ of [one, shown, every]) button_.enable(enabled); },
  };
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Gene programs");
  const { badge, show: showStatus } = statusBadge();
  const facts = element("span", { class: "scaw-soft" });
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Gene programs"), badge, facts));
  const announce = announcer(root, signal);
  const renames = renamer(model, signal, announce);

  const stage = element("span");
  const stop = actionButton("Stop", () => model.send({ op: "stop" }), signal, { title: "End the training; the model stays usable" });
  const work = element("div", { class: "scaw-row scaw-progress" }, element("progress", { max: 1, "aria-label": "Progress" }), stage, stop.node);
  const train = actionButton("Train with the defaults", () => model.send({ op: "train" }), signal, { class: "scaw-button scaw-primary" });
  const untrained = element("div", { class: "scaw-empty-state" },
    element("p", {}, "This model has not been trained, so its programs say nothing yet. Train it here, or in a cell with the options you want: ",
      element("code", {}, "model.train(…)"), ". The table comes when the training has ended."),
    train.node);
  const retry = actionButton("Try again", () => model.send({ op: "retry" }), signal);
  const failed = element("div", { class: "scaw-row" }, retry.node);

  const form = rankingForm(model, signal);
  const list = programList(model, signal, { renames, announce });
  const detail = programDetail(model, signal, { renames });
  const cells = cellsPart(model, root, signal);
  const writing = writingPart(model, signal, announce);
  const code = codeDetails(model, signal, announce);
  const title = element("h4", { class: "scaw-part-title" });
  const result = element("div", { class: "scaw-part" }, title, element("div", { class: "scaw-programs" }, list.node, detail.node));
  root.append(untrained, form.node, errorNotice(model, signal), failed, work, result, cells.node, writing.node, code);
  let detached = false;
  let told = "";

  function show() {
    const status = detached ? "detached" : model.get("status");
    const [progress, ranking] = ["progress", "ranking"].map((name) => model.get(name));
    const has = Boolean(ranking.rows);
    showStatus(status);
    root.dataset.status = status;
    facts.textContent = model.get("facts");
    work.hidden = status !== "running";
    stage.textContent = progress.stage ?? "";
    stop.node.hidden = !progress.training;
    stop.enable(true);
    untrained.hidden = model.get("status") !== "empty";
    train.enable(!detached);
    failed.hidden = status !== "failed";
    form.node.hidden = model.get("status") === "empty" || (!has && status !== "failed");
    for (const part of [result, cells.node, writing.node, code]) part.hidden = !has;
    title.textContent = ranking.kind === "contrast"
      ? `Programs by Bayes factor: ${ranking.title}, ${ranking.n.map((n) => n.toLocaleString("en")).join(" and ")} cells` : "Programs by activity";
    const enabled = !detached && !progress.training;
    for (const part of [form, list, detail, cells, writing]) part.setEnabled(enabled);
    const words = status === "running" ? stage.textContent : status === "ready" ? `Gene programs ready. ${title.textContent}.` : "";
    if (words && words !== told) announce(words, status === "ready");
    told = words;
  }

  follow(model, ["status", "progress", "facts", "ranking"], show, signal);
  followKernel(model, (gone) => { detached = gone; show(); }, signal);
  show();
  followTheme(root, cells.setDark, signal);
  return remove;
}

export default { render };
