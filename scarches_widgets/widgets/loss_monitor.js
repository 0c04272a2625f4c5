import {
  announcer, button, download, element, errorNotice, follow, followKernel, followTheme, formatNumber, formatSeconds, frame,
  listen, statusBadge, STATUS_WORDS,
} from "./js/common.js";
import { embedFigure, paint, readable } from "./js/bokeh_figure.js";
import { axisEnd, History, moveCursor } from "./js/history.js";

/** One store per widget model: what has arrived so far, shared by its views. */
const stores = new WeakMap();

class Store extends EventTarget {
  constructor(model) {
    super();
    this.model = model;
    this.history = new History();
    this.load();
    model.on("change:values", () => this.load());
    model.on("change:series", () => this.load());
    model.on("msg:custom", (content, buffers) => {
      if (content?.op === "append") this.append(content, buffers[0]);
    });
  }

  get keys() {
    return this.model.get("series").map((one) => one.key);
  }

  load() {
    const values = this.model.get("values");
    const width = 4 * (3 + this.keys.length);
    if (values?.byteLength && values.byteLength % width) return; // series and values change one after the other
    this.history.load(this.keys, values);
    this.info = this.model.get("info") ?? { n_epochs: 0, notes: [] };
    this.dispatchEvent(new Event("reset"));
  }

  append(content, buffer) {
    const isNext = content.info.run !== this.info.run;
    if (isNext || this.history.names.length !== 3 + this.keys.length) this.history.reset(this.keys);
    this.info = content.info;
    if (isNext) this.dispatchEvent(new Event("reset"));
    const fresh = this.history.append(content.start, buffer);
    if (fresh === "gap") {
      this.model.send({ op: "resend" });
      return;
    }
    this.dispatchEvent(Object.assign(new Event("grown"), { fresh }));
  }
}

function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}

/** The curves; draws nothing before there are series. */
function chartOf(model, store, host, signal) {
  let figure = null;
  let embedding = 0;
  let logarithmic = false;
  let dark = false;
  let inner = null;
  signal.addEventListener("abort", () => inner?.abort());

  async function embed() {
    inner?.abort();
    figure = null;
    const item = model.get("figure");
    if (!item?.doc) {
      host.replaceChildren(element("p", { class: "scaw-soft" }, "Waiting for the first epoch."));
      return;
    }
    const mine = (embedding += 1);
    inner = new AbortController();
    host.replaceChildren();
    try {
      const embedded = await embedFigure(host, item, model.get("bokeh_version"), inner.signal);
      if (!embedded || mine !== embedding) return;
      figure = embedded;
    } catch (error) {
      host.replaceChildren(element("p", { class: "scaw-problem" }, `The chart could not be drawn: ${error.message}`));
      return;
    }
    colour();
    fill();
    if (logarithmic) setLog(true);
    host.dataset.ready = "true";
  }

  function colour() {
    if (!figure) return;
    paint(figure.document, dark, host);
    for (const one of model.get("series")) figure.named(one.key).glyph.line_color = readable(one.colour, dark);
  }

  function fill() {
    if (!figure) return;
    figure.named("curves").data = { ...store.history.columns };
    mark();
  }

  function grow(fresh) {
    if (!figure || !fresh) return;
    if (fresh.epoch.length === store.history.length) figure.named("curves").data = { ...store.history.columns };
    else figure.named("curves").stream(fresh);
    mark();
  }

  function mark() {
    if (!figure || !store.history.length) return;
    const { info } = store;
    const end = axisEnd(store.history.length, info.max_epochs, ["done", "stopped", "failed"].includes(model.get("status")));
    figure.named("epochs").setv({ start: -0.02 * end, end: 1.02 * end });
    figure.named("best").location = info.best_epoch ?? null;
    figure.named("warm-up").setv({ left: 0, right: info.warm_up_until ?? 0 });
  }

  function setLog(wanted) {
    logarithmic = wanted;
    if (!figure) return;
    const { Bokeh } = figure;
    const plot = figure.named("chart");
    const kind = wanted ? "Log" : "Linear";
    const [axis] = plot.left;
    const make = (name, attributes = {}) => new (Bokeh.Models.get(name))(attributes);
    plot.y_scale = make(`${kind}Scale`);
    axis.setv({
      ticker: make(wanted ? "LogTicker" : "BasicTicker"),
      formatter: make(wanted ? "LogTickFormatter" : "BasicTickFormatter"),
    });
  }

  return {
    embed, fill, grow, mark, setLog,
    get isLog() { return logarithmic; },
    setDark(value) { dark = value; colour(); },
    show(key, visible) { const line = figure?.named(key); if (line) line.visible = visible; },
    cursor(epoch) { const span = figure?.named("cursor"); if (span) span.location = epoch; },
    get view() { return figure?.view; },
  };
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Loss monitor");
  const store = storeOf(model);
  let detached = false;
  let cursor = null;
  const hidden = new Set();
  const ticked = new Map();
  let announced = null;
  let tableTimer = null;

  const { badge, show: showStatus } = statusBadge();
  const facts = element("span", { class: "scaw-soft scaw-facts" });
  const bar = element("progress", { max: 1, value: 0, "aria-label": "Epochs done" });
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Loss"), badge, bar, facts));
  root.append(errorNotice(model, signal));

  const host = element("div", { class: "scaw-chart", tabindex: "0", role: "img", "aria-label": "Loss curves" });
  const readout = element("div", { class: "scaw-row scaw-hint scaw-readout" });
  const chart = chartOf(model, store, host, signal);
  root.append(host, readout);

  const parts = element("fieldset", { class: "scaw-row scaw-parts", style: "border:0;padding:0" });
  root.append(parts);

  const controls = element("div", { class: "scaw-row" });
  const pause = button("Pause", { title: "Hold on after this step" });
  const stopEpoch = button("Stop after epoch");
  const stopNow = button("Stop now");
  controls.append(pause, stopEpoch, stopNow);
  const advice = element("span", { class: "scaw-hint" });
  controls.append(advice);
  root.append(controls);

  const tools = element("div", { class: "scaw-row" });
  const log = button("Log scale", { "aria-pressed": "false", title: "L" });
  const table = button("Table", { "aria-expanded": "false", title: "T" });
  const png = button("PNG");
  const svg = button("SVG");
  const csv = button("CSV");
  tools.append(log, table, png, svg, csv,
    element("span", { class: "scaw-hint" }, "Keys on the chart: ← → cursor, L log scale, T table, Esc back to the cell"));
  root.append(tools);
  const tableHost = element("div", { class: "scaw-table-host", tabindex: "0", role: "region", "aria-label": "Losses by epoch", hidden: true });
  const notes = element("ul", { class: "scaw-hint scaw-notes", "aria-label": "Notes" });
  root.append(tableHost, notes);
  const announce = announcer(root, signal);

  const labelOf = (key) => model.get("series").find((one) => one.key === key)?.label ?? key.replace("_", " ");

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
      words.push(`epoch ${history.length} of ${info.max_epochs}`);
    }
    bar.hidden = !info.max_epochs;
    if (info.seconds_per_epoch) words.push(`${info.seconds_per_epoch.toPrecision(2)} s per epoch`);
    if (status === "running" && info.eta) {
      const spread = info.eta_spread >= 1 ? ` ± ${formatSeconds(info.eta_spread)}` : "";
      words.push(`${formatSeconds(info.eta)}${spread} to go`);
    }
    if (info.best_epoch !== null && info.best_epoch !== undefined) words.push(`best epoch ${info.best_epoch}`);
    if (info.patience) words.push(`patience ${info.patience[0]} of ${info.patience[1]}`);
    const rate = history.columns.learning_rate.at(-1);
    if (rate !== undefined) words.push(`learning rate ${formatNumber(rate)}`);
    facts.textContent = words.join(" · ");
    notes.replaceChildren(...(info.notes ?? []).map((text) => element("li", {}, text)));
    const summary = `Loss monitor, ${STATUS_WORDS[status]}, ${words[0] ?? "no epochs yet"}`;
    host.setAttribute("aria-label", `${summary}. ${readoutText()}`);
    announce(summary, ["done", "stopped", "failed", "detached"].includes(status) && announced !== status);
    announced = status;
    showControls(status);
  }
  function showControls(status) {
    const foreground = Boolean(store.info.in_foreground);
    const active = ["running", "pausing", "paused"].includes(status) && !foreground;
    pause.disabled = !active;
    pause.textContent = status === "paused" || status === "pausing" ? "Resume" : "Pause";
    stopEpoch.disabled = !active;
    stopNow.disabled = !(active || (status === "stopping" && !foreground));
    advice.textContent = "";
    if (foreground && ["running", "stopping"].includes(status)) {
      advice.textContent = "This run holds the kernel: only the kernel's ■ Interrupt stops it, and the model is kept.";
    }
    if (status === "detached") advice.textContent = "The kernel was restarted or has died. The picture is kept.";
  }

  function readoutText() {
    if (cursor === null || cursor >= store.history.length) return "";
    const row = store.history.row(cursor);
    const values = store.history.names.slice(3).filter((key) => !hidden.has(key))
      .map((key) => `${labelOf(key)} ${formatNumber(row[key])}`);
    return `Epoch ${row.epoch}: ${values.join(", ")}`;
  }

  function moveTo(target) {
    cursor = target;
    readout.textContent = readoutText();
    chart.cursor(cursor === null ? null : store.history.columns.epoch[cursor]);
    if (cursor !== null) announce(readoutText(), true);
  }

  function showTerm(term, isShown) {
    ticked.set(term, isShown);
    for (const { key } of model.get("series").filter((one) => one.term === term)) {
      chart.show(key, isShown);
      if (isShown) hidden.delete(key); else hidden.add(key);
    }
    readout.textContent = readoutText();
  }

  function showParts() {
    parts.replaceChildren();
    const terms = new Map(model.get("series").map((one) => [one.term, one]));
    if (!terms.size) return;
    parts.append(element("legend", { class: "scaw-quiet" }, "Curves"));
    for (const [term, one] of terms) {
      const box = element("input", { type: "checkbox", value: term });
      box.checked = ticked.get(term) ?? term === "unweighted_loss";
      showTerm(term, box.checked);
      const swatch = element("span", { "aria-hidden": "true", style: `display:inline-block;width:14px;height:3px;vertical-align:middle;background:${readable(one.colour, root.classList.contains("scaw-dark"))}` });
      parts.append(element("label", {}, box, " ", swatch, ` ${one.label.replace(/, (training|held out)$/, "")}`));
    }
    parts.append(element("span", { class: "scaw-hint" }, "solid: training, dashed: held out, dotted: best epoch, shaded: warm-up of the KL term"));
  }

  function showTable() {
    if (tableHost.hidden) return;
    const names = store.history.names;
    const words = { epoch: "epoch", learning_rate: "learning rate", kl_weight: "KL weight" };
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, words[name] ?? labelOf(name))));
    const first = Math.max(0, store.history.length - 500);
    const rows = [];
    for (let i = store.history.length - 1; i >= first; i -= 1) {
      rows.push(element("tr", {}, ...names.map((name) => element("td", {}, formatNumber(store.history.columns[name][i])))));
    }
    const note = first ? element("caption", { class: "scaw-hint" }, "The last 500 epochs; CSV has all.") : null;
    tableHost.replaceChildren(element("table", { class: "scaw-table" }, note, element("thead", {}, head), element("tbody", {}, ...rows)));
  }

  /** While a run grows: hundreds of rows, many times a second, would leave the page no time. */
  function showTableSoon() {
    tableTimer ??= setTimeout(() => { tableTimer = null; showTable(); }, 1000);
  }

  function toggleTable() {
    tableHost.hidden = !tableHost.hidden;
    table.setAttribute("aria-expanded", String(!tableHost.hidden));
    showTable();
  }

  function toggleLog() {
    chart.setLog(!chart.isLog);
    log.setAttribute("aria-pressed", String(chart.isLog));
  }

  async function exportPicture(kind) {
    const layer = chart.view?.export(kind);
    if (layer) download(`loss.${kind}`, await layer.to_blob());
  }

  listen(store, "grown", (event) => { chart.grow(event.fresh); showFacts(); showTableSoon(); }, signal);
  listen(store, "reset", () => { if (!store.history.length) moveTo(null); chart.fill(); showFacts(); showTable(); }, signal);
  follow(model, ["figure"], async () => { showParts(); await chart.embed(); showParts(); }, signal);
  follow(model, ["status"], () => { chart.mark(); showFacts(); }, signal);
  listen(parts, "change", ({ target }) => showTerm(target.value, target.checked), signal);
  listen(pause, "click", () => model.send({ op: pause.textContent === "Resume" ? "resume" : "pause" }), signal);
  listen(stopEpoch, "click", () => model.send({ op: "stop", when: "epoch" }), signal);
  listen(stopNow, "click", () => model.send({ op: "stop", when: "batch" }), signal);
  listen(log, "click", toggleLog, signal);
  listen(table, "click", toggleTable, signal);
  listen(png, "click", () => exportPicture("png"), signal);
  listen(svg, "click", () => exportPicture("svg"), signal);
  listen(csv, "click", () => download("loss.csv", new Blob([store.history.csv()], { type: "text/csv" })), signal);
  listen(host, "keydown", (event) => {
    if (event.key === "l" || event.key === "L") toggleLog();
    else if (event.key === "t" || event.key === "T") toggleTable();
    else {
      const target = moveCursor(cursor, event.key, store.history.length, event.shiftKey);
      if (target === cursor && !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      moveTo(target);
    }
    event.preventDefault();
  }, signal);
  followTheme(root, (dark) => { chart.setDark(dark); showParts(); }, signal);
  followKernel(model, (gone) => { detached = gone; showFacts(); }, signal);

  showParts();
  showFacts();
  chart.embed().then(showParts);
  return remove;
}

export default {
  initialize({ model }) {
    storeOf(model);
  },
  render,
};
