import { element } from "./js/common.js";
import { actionButton } from "./js/actions.js";
import { panelOf } from "./js/panel.js";

function steer(send, signal) {
  let paused = false;
  const pause = actionButton("Pause", () => send({ op: paused ? "resume" : "pause" }), signal);
  const stopEpoch = actionButton("Stop after epoch", () => send({ op: "stop", when: "epoch" }), signal);
  const stopNow = actionButton("Stop now", () => send({ op: "stop", when: "batch" }), signal);
  const advice = element("span", { class: "scaw-hint" });
  return {
    nodes: [pause.node, stopEpoch.node, stopNow.node, advice],
    show(status, progress) {
      const foreground = Boolean(progress.in_foreground);
      const started = Boolean(progress.max_epochs) && !foreground;
      const active = ["running", "pausing", "paused"].includes(status);
      paused = status === "paused" || status === "pausing";
      pause.node.textContent = paused ? "Resume" : "Pause";
      pause.enable(active && started);
      stopEpoch.enable(active && started);
      stopNow.enable((active || status === "stopping") && !foreground);
      advice.textContent = foreground && active ? "This run holds the kernel: only the kernel's ■ Interrupt stops it." : "";
    },
  };
}

function render({ model, el }) {
  const result = (status) => {
    const how = status === "done" ? "Trained." : "Stopped; the model is usable as it is.";
    return `${how} In Python it is this panel's .model; .monitor shows its loss curve.`;
  };
  return panelOf({ model, el }, {
    name: "Training panel", title: `Train ${model.get("model_name")}`, steer, result,
    start: { label: "Train", again: "Train anew", op: "train" },
  });
}

export default { render };
