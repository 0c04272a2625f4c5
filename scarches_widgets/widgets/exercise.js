import {
  announcer, button, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge,
} from "./js/common.js";
import { actionButton } from "./js/actions.js";
import { outcomeWords, parted, rungWords } from "./js/exercise.js";
import { keptIn } from "./js/notebook.js";

/** A text with its code set as code. */
function prose(tag, text) {
  const pieces = parted(text).map(({ text: piece, code }) => (code ? element("code", {}, piece) : piece));
  return element(tag, {}, ...pieces);
}

function choicesOf(model, signal) {
  const name = `scaw-choice-${Math.random().toString(36).slice(2, 10)}`;
  const boxes = model.get("choices").map((choice) => element("input", { type: "radio", name, value: choice }));
  const labels = boxes.map((box) => element("label", { class: "scaw-choice" }, box, prose("span", box.value)));
  const node = element("fieldset", { class: "scaw-choices" }, element("legend", {}, "Your answer"), ...labels);
  node.hidden = !boxes.length;
  const show = () => boxes.forEach((box) => { box.checked = box.value === model.get("answer"); });
  listen(node, "change", ({ target }) => { model.set("answer", target.value); model.save_changes(); }, signal);
  follow(model, ["answer"], show, signal);
  show();
  return node;
}

function checksOf(model, signal) {
  const node = element("ul", { class: "scaw-checks", "aria-label": "Checks" });
  const show = () => node.replaceChildren(...model.get("checks").map(({ text, met, detail }) => element(
    "li", { class: met ? "scaw-met" : null },
    element("span", { class: "scaw-mark", "aria-hidden": "true" }, met ? "✓" : "○"),
    element("span", {}, element("span", { class: "scaw-quiet" }, met ? "met: " : "not yet: "), prose("span", text),
      detail ? prose("span", ` ${detail}`) : null),
  )));
  follow(model, ["checks"], show, signal);
  show();
  return node;
}

function ladderOf(model, signal) {
  const node = element("div", { class: "scaw-ladder", "aria-live": "polite" });
  const show = () => {
    const { hints, solution } = model.get("ladder");
    node.replaceChildren();
    if (hints.length) node.append(element("ol", { "aria-label": "Hints" }, ...hints.map((hint) => prose("li", hint))));
    if (solution) node.append(element("h4", {}, "Solution"), element("pre", { class: "scaw-code", tabindex: "0", "aria-label": "Solution" }, solution));
  };
  follow(model, ["ladder"], show, signal);
  show();
  return node;
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Exercise");
  const kept = keptIn(model, "exercises", model.get("title"));
  let detached = false;
  let told = "";
  const { badge, show: showBadge } = statusBadge();
  const attempts = element("span", { class: "scaw-soft" });
  const announce = announcer(root, signal);
  const choices = choicesOf(model, signal);
  const outcome = element("p", { class: "scaw-outcome" });

  const send = (op) => model.send({ op, answer: model.get("answer") });
  const check = actionButton("Check", () => send("check"), signal, { class: "scaw-button scaw-primary", title: "Ctrl+Enter" });
  const climb = actionButton("Hint", () => send("climb"), signal);
  const reset = actionButton("Start over", () => send("reset"), signal, { title: "Forget the answer, the attempts and the hints" });
  const actions = element("div", { class: "scaw-row scaw-actions" }, check.node, climb.node, reset.node);
  const paragraphs = model.get("question").split(/\n\s*\n/).map((text) => prose("p", text));
  root.append(
    element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, model.get("title")), badge, attempts),
    ...paragraphs, choices, checksOf(model, signal), actions, outcome, errorNotice(model, signal), ladderOf(model, signal),
  );

  function show() {
    const status = detached ? "detached" : model.get("status");
    const progress = model.get("progress");
    root.dataset.status = status;
    root.dataset.attempts = String(progress.attempts);
    showBadge(status);
    if (status === "done") badge.textContent = "passed";
    attempts.textContent = progress.attempts ? `${progress.attempts} ${progress.attempts === 1 ? "attempt" : "attempts"}` : "";
    const rung = rungWords(model.get("ladder"));
    climb.node.textContent = rung || "Hint";
    climb.node.hidden = !rung;
    for (const one of [check, climb, reset]) one.enable(!detached);
    choices.disabled = detached;
    const words = outcomeWords(model.get("checks"), progress, status);
    outcome.textContent = words;
    outcome.classList.toggle("scaw-met", status === "done");
    if (words && words !== told && status !== "running") announce(words, true);
    told = words;
  }

  listen(root, "keydown", (event) => {
    if (event.key !== "Enter" || !event.ctrlKey) return;
    event.preventDefault();
    check.node.click();
  }, signal);
  follow(model, ["status", "checks", "progress", "ladder"], show, signal);
  follow(model, ["progress"], () => kept.write(model.get("progress")), signal);
  followTheme(root, () => {}, signal);
  followKernel(model, (gone) => { detached = gone; show(); }, signal);
  show();
  const before = kept.read();
  if (before && !detached) model.send({ op: "recall", progress: before });
  return remove;
}

export default { render };
