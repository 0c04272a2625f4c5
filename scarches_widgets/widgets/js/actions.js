/** Buttons that say why they are off, those that steer a run, a line to fill in, and the Python for what was clicked. */
import { button, element, follow, listen } from "./common.js";

/** A button that keeps the focus when it is off, and is then described by the reason. */
export function actionButton(label, act, signal, attributes = {}) {
  const node = button(label, attributes);
  // pressing it ends an entry, whose remarks may move the button away from under the mouse: the click is its own still
  listen(node, "pointerdown", (event) => node.setPointerCapture(event.pointerId), signal);
  listen(node, "click", () => { if (node.getAttribute("aria-disabled") !== "true") act(); }, signal);
  return {
    node,
    enable(enabled) { node.setAttribute("aria-disabled", String(!enabled)); },
  };
}

/** For `panelOf`: Pause, Finish early and Stop of its run; `says` (finish, stop) what these two do there. */
export const steering = (says) => (send, signal) => {
  let paused = false;
  const pause = actionButton("Pause", () => send({ op: paused ? "resume" : "pause" }), signal);
  const finish = actionButton("Finish early", () => send({ op: "finish" }), signal, { title: says.finish });
  const stop = actionButton("Stop", () => send({ op: "stop" }), signal, { title: says.stop });
  return {
    nodes: [pause.node, finish.node, stop.node],
    show(status, progress) {
      const active = ["running", "pausing", "paused"].includes(status);
      const training = active && Boolean(progress.max_epochs) && !progress.stage;
      paused = status === "paused" || status === "pausing";
      pause.node.textContent = paused ? "Resume" : "Pause";
      pause.enable(training);
      finish.enable(training);
      stop.enable(active || status === "stopping");
    },
  };
};

/**
 * A line to fill in: Enter in its input submits, Escape closes, no other key leaves it.
 * @param problem where it says what is wrong with the text, until that changes
 * @returns `refuse(text)`: say it, and take the focus back unless `focus` is false
 */
export function lineToFill(form, input, problem, { submit, close }, signal) {
  listen(input, "input", () => { problem.textContent = ""; input.removeAttribute("aria-invalid"); }, signal);
  listen(form, "keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.target === input) submit();
    else return;
    event.preventDefault();
  }, signal);
  return {
    refuse(text, focus = true) {
      problem.textContent = text;
      input.setAttribute("aria-invalid", "true");
      if (focus) input.focus();
    },
  };
}

/** The Python for what was clicked, to copy. */
export function codeDetails(model, signal, announce) {
  const code = element("pre", { class: "scaw-code", tabindex: "0", "aria-label": "Python code" });
  const said = element("span", { class: "scaw-hint" });
  const copy = button("Copy");
  const show = () => {
    code.textContent = model.get("script") || "# Mend the marked options first.";
    copy.disabled = !model.get("script");
    said.textContent = "";
  };
  listen(copy, "click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("script"));
      said.textContent = "Copied.";
    } catch { // no clipboard for this page
      getSelection().selectAllChildren(code);
      said.textContent = "Selected: copy it with Ctrl+C.";
    }
    announce(said.textContent, true);
  }, signal);
  follow(model, ["script"], show, signal);
  show();
  return element("details", { class: "scaw-code-details" }, element("summary", {}, "Code"),
    element("div", { class: "scaw-row" }, copy, said), code);
}
