import { download, element, follow, followMessages, listen } from "./js/common.js";
import { actionButton } from "./js/actions.js";
import { panelOf } from "./js/panel.js";
import { showRemarks } from "./js/remarks.js";

const PRESETS = [
  ["teaching", "Teaching", "As many epochs as take a minute here, measured on a few steps"],
  ["default", "Default", "Our schedule"],
  ["published", "Published", "The schedule of the paper"],
];
const BUSY = ["running", "pausing", "paused", "stopping"];

/** Names of models under headings, as far as it is known which of them the cells fit: [[heading, names], …]. */
export function byFit(names, fits) {
  const levels = new Map(fits.map((one) => [one.text.replace(/\.$/, ""), one.level]));
  const of = (...wanted) => names.filter((name) => wanted.includes(levels.get(name)));
  return [["", of(undefined)], ["For these cells", of("ok")], ["The cells lack something", of("lacks")]].filter(([, of]) => of.length);
}

/** Which model is trained. */
const modelPicker = (model) => (signal) => {
  const select = element("select", { class: "scaw-select", "aria-label": "Model" });
  const node = element("div", { class: "scaw-row" }, element("span", { class: "scaw-soft" }, "Model"), select);
  listen(select, "change", () => model.send({ op: "choose", name: select.value, values: model.get("values") }), signal);
  const show = () => {
    const names = model.get("model_names");
    node.hidden = model.get("status") === "empty" || !names.length;
    select.disabled = BUSY.includes(model.get("status"));
    const lines = (all) => all.map((name) => element("option", { value: name }, name));
    select.replaceChildren(...byFit(names, model.get("fits")).flatMap(([heading, all]) => (
      heading ? [element("optgroup", { label: heading }, ...lines(all))] : lines(all))));
    select.value = model.get("model_name");
  };
  follow(model, ["model_name", "model_names", "fits", "status", "error"], show, signal);
  show();
  return node;
};

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
      const pauses = (progress.controls ?? ["pause"]).includes("pause");
      pause.enable(active && started && pauses);
      stopEpoch.enable(active && started);
      stopNow.enable((active || status === "stopping") && !foreground);
      advice.textContent = !active ? "" : foreground ? "This run holds the kernel: only the kernel's ■ Interrupt stops it."
        : pauses ? "" : "Several processes train, which cannot be paused.";
    },
  };
}

/** Whole schedules, settings as a file, what it will cost, and a run to go on with. */
const settingsBar = (model) => (signal) => {
  const send = (content) => model.send({ values: model.get("values"), ...content });
  const presets = PRESETS.map(([name, label, title]) => actionButton(label, () => send({ op: "preset", name }), signal, { title }));
  const cost = actionButton("Estimate time", () => send({ op: "estimate" }), signal, { title: "Measure a few steps" });
  const save = actionButton("Save settings", () => send({ op: "save" }), signal);
  const file = element("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": "File of settings" });
  const load = actionButton("Load settings…", () => file.click(), signal);
  const said = element("span", { class: "scaw-hint", role: "status" });
  const goOn = actionButton("Go on with it", () => send({ op: "go_on" }), signal);
  const words = element("span", {});
  const left = element("div", { class: "scaw-notice scaw-warning scaw-left" }, words, " ", goOn.node);
  const estimate = element("p", { class: "scaw-estimate" });
  const fits = element("ul", { class: "scaw-remarks", "aria-label": "Models" });
  const fitsHead = element("summary");
  const buttons = [...presets, cost, save, load, goOn];
  const node = element("div", { class: "scaw-settings" }, left,
    element("div", { class: "scaw-row", role: "group", "aria-label": "Settings" },
      element("span", { class: "scaw-soft" }, "Presets"), ...presets.map((one) => one.node), cost.node, save.node, load.node, file, said),
    estimate, element("details", { class: "scaw-fits" }, fitsHead, fits));
  listen(file, "change", async () => {
    if (file.files.length) send({ op: "load", text: await file.files[0].text() });
    file.value = "";
  }, signal);
  followMessages(model, (content) => {
    if (content?.op !== "saved") return;
    download(`${model.get("model_name").toLowerCase()}_settings.json`, new Blob([content.text], { type: "application/json" }));
    said.textContent = `Saved; their fingerprint, ${content.sha256.slice(0, 8)}…, is noted in adata.uns["scarches_widgets"]["training"].`;
  }, signal);
  const show = () => {
    const status = model.get("status");
    node.hidden = status === "empty";
    const busy = BUSY.includes(status);
    for (const one of buttons) one.enable(!busy);
    cost.enable(!busy && !model.get("blocked"));
    left.hidden = !model.get("resumable") || busy;
    words.textContent = model.get("resumable");
    estimate.textContent = model.get("estimate");
    estimate.hidden = !estimate.textContent;
  };
  const showFits = () => {
    const found = model.get("fits");
    showRemarks(fits, found);
    const n = found.filter((one) => one.level === "ok").length;
    fitsHead.textContent = found.length ? `Which models these cells fit: ${n} of ${found.length}` : "Which models these cells fit";
  };
  follow(model, ["status", "blocked", "resumable", "estimate"], show, signal);
  follow(model, ["fits"], showFits, signal);
  showFits();
  follow(model, ["values"], () => { said.textContent = ""; }, signal);
  show();
  return node;
};

function render({ model, el }) {
  const result = (status) => {
    const how = status === "done" ? "Trained." : "Stopped; the model is usable as it is.";
    return `${how} In Python it is this panel's .model; .monitor shows its loss curve.`;
  };
  return panelOf({ model, el }, {
    name: "Training panel", title: () => `Train ${model.get("model_name")}`, steer, result, before: [modelPicker(model), settingsBar(model)],
    start: { label: "Train", again: "Train anew", op: "train" },
  });
}

export default { render };
