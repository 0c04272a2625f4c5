import { codeDetails } from "./js/actions.js";
import { announcer, button, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge } from "./js/common.js";
import { childViews } from "./js/suite_child.js";
import { dataForm, modelForm, shareForm, treeForm } from "./js/suite_forms.js";
import { splitLine } from "./js/suite_split.js";
import { stepTabs } from "./js/suite_steps.js";

const WITH_CELLS = ["map", "tree"]; // steps beside which the session's cells are shown
const KEYS = [
  "In the row of steps: ← and → move, Home and End too; Enter opens a step.",
  "On the line between two panes: ← and → move it, Enter folds the cells away and back.",
  "Tab goes from control to control; Escape goes back to the notebook's cell.",
];

/** What the line of the suite says of the time of a step, in the reader's own clock. */
function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Suite");
  const prefix = `scaw-suite-${Math.random().toString(36).slice(2, 10)}`;
  const { badge, show: showStatus } = statusBadge();
  const announce = announcer(root, signal);
  const stage = element("span", { class: "scaw-soft" });
  const keys = button("Keys", { "aria-expanded": "false", "aria-controls": `${prefix}-keys` });
  const full = button("Full screen");
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Suite"), badge, stage,
    element("div", { class: "scaw-row" }, keys, full)));
  const help = element("ul", { class: "scaw-suite-keys", id: `${prefix}-keys`, hidden: true }, ...KEYS.map((text) => element("li", {}, text)));
  let detached = false;
  let step = model.get("step");

  const send = (content) => model.send(content);
  const tabs = stepTabs(model, prefix, open, signal);
  const trouble = element("div", { role: "alert" });
  const failed = (error) => trouble.replaceChildren(element("div", { class: "scaw-notice scaw-error" },
    element("strong", {}, "✕ A part of this step cannot be shown."), `${error?.message ?? error}. Run the cell again.`));

  const forms = { data: dataForm(model, send, prefix, signal), train: modelForm(model, send, signal),
    tree: treeForm(model, send, signal), share: shareForm(model, send, signal) };
  const panels = new Map(model.get("steps").map(({ key }) => {
    const reason = element("p", {});
    const mend = button("");
    const locked = element("div", { class: "scaw-locked-reason", hidden: true }, reason, mend);
    const children = element("div", { class: "scaw-suite-children" });
    const body = element("div", {}, forms[key]?.node ?? null, key === "share" ? codeDetails(model, signal, announce) : null, children);
    const node = element("div", { role: "tabpanel", id: `${prefix}-panel-${key}`, "aria-labelledby": `${prefix}-tab-${key}` }, locked, body);
    listen(mend, "click", () => open(mend.dataset.step, true), signal);
    return [key, { node, locked, reason, mend, body, showChildren: childViews(model, children, signal, failed) }];
  }));

  const content = element("div", { class: "scaw-suite-pane scaw-suite-content", id: `${prefix}-content` }, ...[...panels.values()].map(({ node }) => node));
  const cells = element("div", { class: "scaw-suite-pane scaw-suite-cells", id: `${prefix}-cells`, role: "region", "aria-label": "Cells" });
  const main = element("div", { class: "scaw-suite-main" });
  const line = splitLine(main, cells.id, signal);
  main.append(content, line, cells);
  const showCells = childViews(model, cells, signal, failed);
  const timeline = element("ol", { class: "scaw-timeline" });
  const done = element("details", {}, element("summary", {}, "What was done"), timeline);
  root.append(help, tabs.node, errorNotice(model, signal), trouble, main, done);

  function open(key, withFocus = false) {
    step = key;
    trouble.replaceChildren();
    if (!detached) {
      model.set("step", key);
      model.save_changes();
      send({ op: "open", step: key });
    }
    tabs.select(key);
    show();
    if (withFocus) root.querySelector(`#${prefix}-tab-${key}`).focus();
  }

  function show() {
    const panes = model.get("panes");
    const steps = model.get("steps");
    for (const { key, locked, mend } of steps) {
      const panel = panels.get(key);
      panel.node.hidden = key !== step;
      panel.locked.hidden = !locked;
      panel.body.hidden = Boolean(locked);
      panel.reason.textContent = locked;
      panel.mend.hidden = !mend || mend === key;
      panel.mend.dataset.step = mend;
      panel.mend.textContent = `Go to ${steps.find((one) => one.key === mend)?.title ?? ""}`;
      panel.showChildren(panes[key] ?? []);
    }
    const id = model.get("cells");
    showCells(id ? [id] : []);
    cells.hidden = line.hidden = !id || !WITH_CELLS.includes(step) || panels.get(step).body.hidden;
    const timed = model.get("timeline");
    timeline.replaceChildren(...timed.map(([time, text]) => element("li", {}, element("time", { datetime: time }, clock(time)), ` ${text}`)));
    done.hidden = !timed.length;
    done.firstChild.textContent = `What was done (${timed.length})`;
  }

  function showState() {
    showStatus(detached ? "detached" : model.get("status"));
    root.dataset.status = detached ? "detached" : model.get("status");
    stage.textContent = detached ? "The kernel was restarted or has died; what is shown is kept." : model.get("stage");
    if (stage.textContent) announce(stage.textContent, true);
    const enabled = !detached && !model.get("stage");
    Object.values(forms).forEach((form) => form.enable(enabled));
  }

  listen(keys, "click", () => {
    help.hidden = !help.hidden;
    keys.setAttribute("aria-expanded", String(!help.hidden));
  }, signal);
  full.hidden = !document.fullscreenEnabled;
  listen(full, "click", () => { // refused by some pages: then it stays as it is
    (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()).catch(() => {});
  }, signal);
  listen(document, "fullscreenchange", () => {
    full.textContent = document.fullscreenElement === root ? "Leave full screen" : "Full screen";
  }, signal);
  follow(model, ["steps", "panes", "cells", "timeline"], show, signal);
  follow(model, ["status", "stage"], showState, signal);
  followTheme(root, () => {}, signal);
  followKernel(model, (gone) => { detached = gone; showState(); }, signal);
  show();
  showState();
  if (!detached && !model.get("panes")[step]) send({ op: "open", step });
  return remove;
}

export default { render };
