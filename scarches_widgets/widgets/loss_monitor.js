import {
  announcer, button, download, element, errorNotice, follow, followKernel, followTheme, formatNumber, formatSeconds, frame,
  listen, statusBadge, STATUS_WORDS,
} from "./js/common.js";
import { codeDetails } from "./js/actions.js";
import { readable } from "./js/bokeh_figure.js";
import { asCsv, choicesOf, moveCursor, rowOf } from "./js/history.js";
import { chartOf } from "./js/loss_chart.js";
import { storeOf } from "./js/loss_store.js";
import { showRemarks } from "./js/remarks.js";

const SPEEDS = [0.5, 1, 2, 5, 10, 50, 0];
const WORDS = { epoch: "epoch", learning_rate: "learning rate", kl_weight: "KL weight" };
const CHOICES = ["log_scale", "smoothing", "shown_terms", "hidden_runs"];

const count = (n) => n.toLocaleString("en");
const stroke = (colour) => element("span", { "aria-hidden": "true", class: "scaw-stroke", style: `background:${colour}` });
const termIn = (label) => label.replace(/, (training|held out)$/, "");

/** Pause, stop and, of a record that is played, its speed. */
function controlsOf(model, signal) {
  const pause = button("Pause", { title: "Hold on after this step" });
  const stopEpoch = button("Stop after epoch");
  const stopNow = button("Stop now");
  const again = button("Play again");
  const speed = element("select", { class: "scaw-select" },
    ...SPEEDS.map((times) => element("option", { value: times }, times ? `${times} ×` : "all at once")));
  const speedLabel = element("label", { class: "scaw-smoothing" }, "Speed", speed);
  const advice = element("span", { class: "scaw-hint" });
  const node = element("div", { class: "scaw-row" }, pause, stopEpoch, stopNow, again, speedLabel, advice);
  listen(pause, "click", () => model.send({ op: pause.textContent === "Pause" ? "pause" : "resume" }), signal);
  listen(stopEpoch, "click", () => model.send({ op: "stop", when: "epoch" }), signal);
  listen(stopNow, "click", () => model.send({ op: "stop", when: "batch" }), signal);
  listen(again, "click", () => model.send({ op: "again" }), signal);
  listen(speed, "change", () => { model.set("speed", Number(speed.value)); model.save_changes(); }, signal);
  return {
    node,
    show(status, info) {
      const can = info.controls ?? ["pause", "stop"];
      const isReplay = can.includes("speed");
      const foreground = Boolean(info.in_foreground);
      const active = ["running", "pausing", "paused"].includes(status) && !foreground;
      pause.disabled = !active;
      pause.textContent = status === "paused" || status === "pausing" ? "Resume" : "Pause";
      stopEpoch.disabled = !active;
      stopNow.disabled = !(active || (status === "stopping" && !foreground));
      again.disabled = speed.disabled = status === "detached";
      pause.hidden = !can.includes("pause");
      stopNow.hidden = !can.includes("stop");
      stopNow.textContent = can.includes("pause") ? "Stop now" : "Stop"; // others' loops stop in one way
      stopEpoch.hidden = stopNow.hidden || !can.includes("pause");
      again.hidden = speedLabel.hidden = !isReplay;
      const now = model.get("speed");
      if (isReplay && !SPEEDS.includes(now) && ![...speed.options].some((one) => Number(one.value) === now)) {
        speed.append(element("option", { value: now }, `${formatNumber(now)} ×`)); // one that was set in Python
      }
      speed.value = String(now);
      advice.textContent = "";
      if (foreground && ["running", "stopping"].includes(status)) {
        advice.textContent = `This run holds the kernel: only the kernel's ■ Interrupt stops it${can.includes("pause") ? ", and the model is kept" : ""}.`;
      }
      if (status === "detached") advice.textContent = "The kernel was restarted or has died. The picture is kept.";
      node.hidden = ![...node.children].some((one) => !one.hidden && one !== advice) && !advice.textContent;
    },
  };
}

/** Which runs and which terms are drawn: terms by checkbox, of several runs one term by radio button. */
function partsOf(model, store, choose, isDark, signal) {
  const runs = element("ul", { class: "scaw-runs", "aria-label": "Runs" });
  const terms = element("fieldset", { class: "scaw-row scaw-parts", style: "border:0;padding:0" });
  const earlier = button("Overlay earlier runs");
  const node = element("div", {}, runs, earlier, terms);
  const name = `scaw-terms-${Math.random().toString(36).slice(2, 10)}`;
  const standings = new Map();
  listen(earlier, "click", () => model.send({ op: "overlay" }), signal);
  listen(terms, "change", ({ target }) => {
    const others = model.get("shown_terms").filter((term) => term !== target.value);
    choose("shown_terms", store.n > 1 ? [target.value] : target.checked ? [...others, target.value] : others);
  }, signal);
  listen(runs, "change", ({ target }) => {
    const others = model.get("hidden_runs").filter((key) => key !== target.value);
    choose("hidden_runs", target.checked ? others : [...others, target.value]);
  }, signal);

  function standing({ n_epochs: n, best, best_epoch: at, status }) {
    const words = [STATUS_WORDS[status], `${count(n)} ${n === 1 ? "epoch" : "epochs"}`];
    if (at !== null && at !== undefined) words.push(`best ${formatNumber(best)} in epoch ${count(at)}`);
    return words.join(" · ");
  }

  function tell() {
    const n = store.info.n_earlier ?? 0;
    earlier.hidden = !n;
    earlier.textContent = `Overlay ${n === 1 ? "the earlier run" : `${n} earlier runs`}`;
    for (const [key, host] of standings) host.textContent = store.info.runs?.[key] ? standing(store.info.runs[key]) : "";
  }

  function show() {
    const several = store.n > 1;
    const choices = choicesOf(model.get("series"));
    runs.hidden = !several;
    runs.replaceChildren();
    standings.clear();
    for (const one of several ? model.get("runs") : []) {
      const box = element("input", { type: "checkbox", value: one.key });
      box.checked = !model.get("hidden_runs").includes(one.key);
      standings.set(one.key, element("span", { class: "scaw-hint" }));
      runs.append(element("li", {}, element("label", {}, box, stroke(readable(one.colour, isDark())),
        element("span", {}, element("span", { class: "scaw-run-name" }, one.name), " ", standings.get(one.key)))));
    }
    const shown = model.get("shown_terms");
    terms.replaceChildren();
    terms.hidden = !choices.length;
    if (choices.length) terms.append(element("legend", { class: "scaw-quiet" }, "Curves"));
    for (const { terms: same, curves } of choices) {
      const box = element("input", { type: several ? "radio" : "checkbox", value: same[0], name });
      box.checked = same.some((term) => (several ? shown[0] === term : shown.includes(term)));
      const labels = new Set(curves.filter((one) => same.includes(one.term)).map((one) => termIn(one.label)));
      terms.append(element("label", {}, box, several ? null : stroke(readable(curves[0].colour, isDark())), [...labels].join(" / ")));
    }
    const marks = several ? "" : ", dotted: best epoch, shaded: warm-up of the KL term";
    if (choices.length) terms.append(element("span", { class: "scaw-hint" }, `solid or ●: training, dashed or ○: held out${marks}`));
    tell();
  }

  /** Show it anew without losing the place of the focus. */
  function refresh() {
    const { activeElement } = document;
    const held = node.contains(activeElement) && activeElement.value;
    show();
    if (held) [...node.querySelectorAll("input")].find((one) => one.value === held)?.focus();
  }

  return { node, show: refresh, tell };
}

/** The losses by epoch, in a table that is filled while it is open. */
function tableOf(store, columns, signal) {
  const host = element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Losses by epoch", hidden: true });
  let timer = null;
  signal.addEventListener("abort", () => clearTimeout(timer));

  function show() {
    if (host.hidden) return;
    const { heads, rows, isCut } = columns();
    const note = isCut ? element("caption", { class: "scaw-hint" }, "The last 500 epochs; CSV has all.") : null;
    host.replaceChildren(element("table", { class: "scaw-table" }, note,
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value) => element("td", {}, formatNumber(value))))))));
  }

  return {
    host, show,
    /** While a run grows: hundreds of rows, many times a second, would leave the page no time. */
    showSoon() { timer ??= setTimeout(() => { timer = null; show(); }, 1000); },
  };
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Loss monitor");
  const store = storeOf(model);
  let detached = false;
  let cursor = null; // an epoch
  let announced = null;

  const { badge, show: showStatus } = statusBadge();
  const facts = element("span", { class: "scaw-soft scaw-facts" });
  const bar = element("progress", { max: 1, value: 0, "aria-label": "Epochs done" });
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Loss"), badge, bar, facts));
  root.append(errorNotice(model, signal));

  const host = element("div", { class: "scaw-chart", tabindex: "0", role: "img", "aria-label": "Loss curves" });
  const readout = element("div", { class: "scaw-row scaw-hint scaw-readout" });
  const chart = chartOf(model, store, host, signal);
  root.append(host, readout);

  const isDark = () => root.classList.contains("scaw-dark");
  const parts = partsOf(model, store, choose, isDark, signal);
  const controls = controlsOf(model, signal);
  root.append(parts.node, controls.node);

  const log = button("Log scale", { "aria-pressed": "false", title: "L" });
  const slider = element("input", { type: "range", min: "0", max: "0.99", step: "0.01" });
  const weight = element("output", {});
  const whole = button("Show all", { title: "0" });
  const table = button("Table", { "aria-expanded": "false", title: "T" });
  const [png, svg, csv] = ["PNG", "SVG", "CSV"].map((kind) => button(kind));
  root.append(element("div", { class: "scaw-row" },
    log, element("label", { class: "scaw-smoothing" }, "Smoothing", slider, weight), whole, table, png, svg, csv,
    element("span", { class: "scaw-hint" }, "Drag over the chart to zoom. Keys on it: ← → cursor, 0 shows all, L log scale, T table, Esc back to the cell")));
  const rows = tableOf(store, tableNow, signal);
  const notes = element("ul", { class: "scaw-remarks scaw-notes", "aria-label": "Notes", hidden: true });
  const announce = announcer(root, signal);
  root.append(rows.host, notes, codeDetails(model, signal, announce));

  function choose(name, value) {
    model.set(name, value);
    model.save_changes();
  }

  const nameOf = (key) => model.get("runs").find((one) => one.key === key)?.name ?? key;
  const wordsOf = (one) => (store.n > 1 ? `${nameOf(one.run)}, ${one.part === "train" ? "training" : "held out"}` : one.label);
  const drawn = () => chart.seen();
  /** The epochs that a cursor can go to: those of the longest run that is seen. */
  const epochs = () => [...store.histories.values()].map(({ columns }) => columns.epoch)
    .reduce((longest, one) => (one.length > longest.length ? one : longest), []);

  function showFacts() {
    const { info, history } = store;
    const status = detached ? "detached" : model.get("status");
    showStatus(status);
    root.dataset.status = status;
    root.dataset.epochs = String(history.length);
    const words = [];
    if (info.max_epochs) {
      bar.max = info.max_epochs;
      bar.value = history.length;
      words.push(`epoch ${count(history.length)} of ${count(info.max_epochs)}`);
    } else if (history.length) words.push(`epoch ${count(history.length)}`);
    bar.hidden = !info.max_epochs;
    if (info.seconds_per_epoch >= 0.001) words.push(`${info.seconds_per_epoch.toPrecision(2)} s per epoch`);
    if (status === "running" && info.eta) {
      const spread = info.eta_spread >= 1 ? ` ± ${formatSeconds(info.eta_spread)}` : "";
      words.push(`${formatSeconds(info.eta)}${spread} to go`);
    }
    if (info.best_epoch !== null && info.best_epoch !== undefined) words.push(`best epoch ${count(info.best_epoch)}`);
    if (info.patience) words.push(`patience ${info.patience.map(count).join(" of ")}`);
    const rate = history.columns.learning_rate.at(-1);
    if (rate !== undefined && !Number.isNaN(rate)) words.push(`learning rate ${formatNumber(rate)}`);
    const trials = info.trials ? [`${info.trials.map(count).join(" of ")} trials begun`] : [];
    facts.textContent = [...trials, ...words].join(" · ");
    showRemarks(notes, info.notes ?? []);
    const summary = `Loss monitor, ${STATUS_WORDS[status]}, ${words[0] ?? "no epochs yet"}`;
    host.setAttribute("aria-label", `${summary}. ${readoutText()}`);
    announce(summary, ["done", "stopped", "failed", "detached"].includes(status) && announced !== status);
    announced = status;
    controls.show(status, info);
    parts.tell();
  }

  function readoutText() {
    if (cursor === null) return "";
    const values = drawn().map((one) => {
      const row = store.histories.get(one.run) && rowOf(store.histories.get(one.run), cursor);
      return row && `${wordsOf(one)} ${formatNumber(row[one.key])}`;
    });
    return `Epoch ${count(cursor)}: ${values.filter(Boolean).join(", ")}`;
  }

  function moveTo(epoch, aloud = true) {
    cursor = epoch;
    readout.textContent = readoutText();
    chart.cursor(cursor);
    if (cursor !== null && aloud) announce(readoutText(), true);
  }

  /** Rows from the last epoch back: of one run everything, of several the term that is drawn. */
  function tableNow() {
    if (store.n < 2) {
      const { names, columns, length } = store.history;
      const labels = new Map(model.get("series").map((one) => [one.key, one.label]));
      const last = Array.from({ length: Math.min(length, 500) }, (_, i) => length - 1 - i);
      return {
        heads: names.map((name) => WORDS[name] ?? labels.get(name) ?? name),
        rows: last.map((i) => names.map((name) => columns[name][i])), isCut: length > 500,
      };
    }
    const every = epochs();
    return {
      heads: ["epoch", ...drawn().map(wordsOf)],
      rows: every.slice(-500).reverse().map((epoch) => [epoch, ...drawn().map((one) => rowOf(store.histories.get(one.run), epoch)?.[one.key])]),
      isCut: every.length > 500,
    };
  }

  function toggleTable() {
    rows.host.hidden = !rows.host.hidden;
    table.setAttribute("aria-expanded", String(!rows.host.hidden));
    rows.show();
  }

  function showChoices() {
    const smoothing = model.get("smoothing");
    log.setAttribute("aria-pressed", String(model.get("log_scale")));
    if (Number(slider.value) !== smoothing) slider.value = String(smoothing);
    weight.textContent = smoothing ? smoothing.toFixed(2) : "off";
    parts.show();
    chart.setLog();
    chart.show();
    readout.textContent = readoutText();
    rows.show();
  }

  async function exportPicture(kind) {
    const layer = chart.view?.export(kind);
    if (layer) download(`loss.${kind}`, await layer.to_blob());
  }

  listen(store, "grown", (event) => { chart.grow(event.fresh); showFacts(); rows.showSoon(); }, signal);
  listen(store, "reset", () => { if (!store.history.length) moveTo(null); chart.fill(); showFacts(); rows.show(); }, signal);
  follow(model, ["figure"], async () => { await chart.embed(); showChoices(); }, signal);
  follow(model, ["runs", "series", ...CHOICES], showChoices, signal);
  follow(model, ["status"], () => { chart.mark(); showFacts(); }, signal);
  follow(model, ["speed"], showFacts, signal);
  listen(log, "click", () => choose("log_scale", !model.get("log_scale")), signal);
  listen(slider, "input", () => choose("smoothing", Number(slider.value)), signal);
  listen(whole, "click", () => chart.fit(), signal);
  listen(table, "click", toggleTable, signal);
  listen(png, "click", () => exportPicture("png"), signal);
  listen(svg, "click", () => exportPicture("svg"), signal);
  listen(csv, "click", () => {
    const runs = [...store.histories].map(([key, history]) => [nameOf(key), history]);
    download("loss.csv", new Blob([asCsv(runs)], { type: "text/csv" }));
  }, signal);
  listen(host, "pointermove", (event) => {
    const epoch = chart.epochAt(event);
    const every = epochs();
    if (epoch !== null && every.length && epoch !== cursor) moveTo(Math.max(every[0], Math.min(every.at(-1), epoch)), false);
  }, signal);
  listen(host, "keydown", (event) => {
    if (event.key === "l" || event.key === "L") log.click();
    else if (event.key === "t" || event.key === "T") toggleTable();
    else if (event.key === "0") chart.fit();
    else {
      const every = epochs();
      const at = cursor === null ? null : every.indexOf(cursor);
      const target = moveCursor(at === -1 ? null : at, event.key, every.length, event.shiftKey);
      if (target === at && !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      moveTo(target === null ? null : every[target]);
    }
    event.preventDefault();
  }, signal);
  followTheme(root, (dark) => { chart.setDark(dark); parts.show(); }, signal);
  followKernel(model, (gone) => { detached = gone; showFacts(); }, signal);

  showChoices();
  showFacts();
  chart.embed().then(showChoices);
  return remove;
}

export default {
  initialize({ model }) {
    storeOf(model);
  },
  render,
};
