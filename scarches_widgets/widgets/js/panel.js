/** What panels share beside their form: head, buttons that say why they are off, progress, code. */
import {
  announcer, button, element, errorNotice, follow, followKernel, followTheme, formatNumber, formatSeconds, frame, listen,
  statusBadge, STATUS_WORDS,
} from "./common.js";
import { actionButton, codeDetails } from "./actions.js";
import { formOf } from "./form.js";
import { showRemarks } from "./remarks.js";

const ACTIVE = ["running", "pausing", "paused", "stopping"];
const ENDED = ["done", "stopped", "failed", "detached"];

/** How far a work is, in words. Pure, so that node can test it. */
export function progressWords(progress, status) {
  if (progress.stage) return progress.stage;
  if (!progress.max_epochs) return "";
  const words = [`epoch ${[progress.n_epochs, progress.max_epochs].map((n) => n.toLocaleString("en")).join(" of ")}`];
  if (progress.loss !== null && progress.loss !== undefined) {
    const held = progress.held_out === null || progress.held_out === undefined ? "" : `, held out ${formatNumber(progress.held_out)}`;
    words.push(`loss ${formatNumber(progress.loss)}${held} nats per cell`);
  }
  if (status === "running" && progress.eta) words.push(`${formatSeconds(progress.eta)} to go`);
  if (["done", "stopped"].includes(status) && progress.reason) words.push(progress.reason);
  return words.join(" · ");
}

/** Share of the work that is done, 0 to 1; null where it is not known. */
export function progressShare(progress) {
  if (progress.stage || !progress.max_epochs) return null;
  const within = progress.steps_per_epoch ? (progress.step % progress.steps_per_epoch) / progress.steps_per_epoch : 0;
  return Math.min(1, (progress.n_epochs + within) / progress.max_epochs);
}

/**
 * A whole panel.
 * @param options name; title: function giving it; start: {label, again, op}; steer: function of (send, signal) giving {nodes, show(status, progress)};
 *   before, after: functions of signal giving nodes around the form; result: function of "done" or "stopped" giving a text
 */
export function panelOf({ model, el }, { name, title, start, steer, before = [], after = [], result }) {
  const { root, signal, remove } = frame(el, name);
  let detached = false;
  let told = null;
  const { badge, show: showStatus } = statusBadge();
  const facts = element("span", { class: "scaw-soft" });
  const heading = element("h3", { class: "scaw-title" });
  root.append(element("div", { class: "scaw-head" }, heading, badge, facts));
  root.append(...before.map((make) => make(signal)));
  const announce = announcer(root, signal);
  const form = formOf(model, signal, announce);

  const reasonId = `scaw-reason-${Math.random().toString(36).slice(2, 10)}`;
  const reason = element("p", { class: "scaw-reason", id: reasonId });
  const begin = () => model.send({ op: start.op, values: model.get("values") }); // a click may overtake entries
  const go = actionButton(start.label, begin, signal, {
    class: "scaw-button scaw-primary", "aria-describedby": reasonId, title: "Ctrl+Enter",
  });
  listen(go.node, "click", () => {
    if (go.node.getAttribute("aria-disabled") !== "true" || ACTIVE.includes(model.get("status"))) return;
    if (form.awaitsAnswer) begin(); // after the entry that may have mended it; the kernel refuses if it has not
    else form.focusFirstError();
  }, signal);
  const controls = steer((content) => model.send(content), signal);
  const actions = element("div", { class: "scaw-row scaw-actions" }, go.node, ...controls.nodes);

  const bar = element("progress", { max: 1, "aria-label": "Progress" });
  const words = element("span", { class: "scaw-progress-words" });
  const progress = element("div", { class: "scaw-row scaw-progress" }, bar, words);
  const outcome = element("p", { class: "scaw-outcome", hidden: true });
  const notes = element("ul", { class: "scaw-remarks", "aria-label": "Notes", hidden: true });
  const code = codeDetails(model, signal, announce);
  root.append(form.node, actions, reason, errorNotice(model, signal), progress, outcome, notes, ...after.map((make) => make(signal)), code);

  function show() {
    const status = detached ? "detached" : model.get("status");
    const now = model.get("progress");
    const active = ACTIVE.includes(status);
    for (const node of [form.node, actions, code]) node.hidden = status === "empty";
    showStatus(status);
    root.dataset.status = status;
    root.dataset.epochs = String(now.n_epochs ?? 0);
    heading.textContent = title();
    facts.textContent = model.get("facts");
    form.setEnabled(!active && !detached);
    go.enable(!model.get("blocked") && !detached);
    go.node.textContent = ENDED.includes(status) ? start.again : start.label;
    reason.textContent = detached ? "The kernel was restarted or has died; what is shown is kept." : model.get("blocked");
    reason.hidden = !reason.textContent;
    reason.classList.toggle("scaw-quiet", active); // the progress says so already
    controls.show(status, now);
    const share = progressShare(now);
    if (share === null) bar.removeAttribute("value"); else bar.value = share;
    words.textContent = progressWords(now, status);
    bar.hidden = !active;
    progress.hidden = !words.textContent;
    outcome.textContent = status === "done" || status === "stopped" ? result(status) : "";
    outcome.hidden = !outcome.textContent;
    if (notes.childElementCount !== (now.notes ?? []).length) {
      showRemarks(notes, (now.notes ?? []).map((text) => ({ level: "warning", text })));
    }
    if (active || ENDED.includes(status)) announce(`${title()}, ${STATUS_WORDS[status]}. ${words.textContent}`, status !== told);
    told = status;
  }

  listen(root, "keydown", (event) => {
    if (event.key !== "Enter" || !event.ctrlKey) return;
    event.preventDefault();
    document.activeElement?.dispatchEvent(new Event("change")); // what is being typed counts
    go.node.focus(); // the form will be off
    go.node.click();
  }, signal);
  follow(model, ["status", "progress", "blocked", "facts", "fields"], show, signal);
  followTheme(root, () => {}, signal);
  followKernel(model, (gone) => { detached = gone; show(); }, signal);
  show();
  return remove;
}
