/** What all views share: elements from text (never from HTML), theme, status in words, talk to the kernel. */

export const STATUS_WORDS = {
  empty: "empty", ready: "ready", invalid: "cannot start", running: "running", pausing: "pausing", paused: "paused",
  stopping: "stopping", stopped: "stopped", done: "done", failed: "failed", detached: "kernel gone",
};

/** An element with attributes and children; strings become text nodes, so no name can be markup. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) throw new Error("listeners are added with listen()");
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A name whose parts may go to the next line: it breaks after underscores, hyphens and the like. */
export function breakable(name) {
  const pieces = name.match(/[^_\-/.,:]*[_\-/.,:]?/g).filter(Boolean);
  return pieces.flatMap((piece, i) => (i ? [document.createElement("wbr"), piece] : [piece]));
}

export function button(label, attributes = {}) {
  return element("button", { type: "button", class: "scaw-button", ...attributes }, label);
}

/** Listen until the view is gone: `view.signal` belongs to an AbortController that render's clean-up aborts. */
export function listen(target, type, handler, signal) {
  target.addEventListener(type, handler, { signal });
}

/** Listen to changes of a widget model until the view is gone. */
export function follow(model, names, handler, signal) {
  for (const name of names) {
    model.on(`change:${name}`, handler);
    signal.addEventListener("abort", () => model.off(`change:${name}`, handler));
  }
}

/**
 * What controls have asked of the kernel and it has not said yet, laid over what it says: the answer to an earlier click
 * must not take back a later one. After `patience` milliseconds without the answer it is given up, by `onGivenUp()`.
 */
export function wishes(onGivenUp, signal, patience = 5000) {
  let wished = {};
  let timer = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    add(change) {
      Object.assign(wished, change);
      clearTimeout(timer);
      timer = setTimeout(() => { wished = {}; onGivenUp(); }, patience);
    },
    over(state) {
      for (const key of Object.keys(wished)) if (wished[key] === state[key]) delete wished[key];
      return { ...state, ...wished };
    },
  };
}

export function followMessages(model, handler, signal) {
  model.on("msg:custom", handler);
  signal.addEventListener("abort", () => model.off("msg:custom", handler));
}

/** Whether a colour, as `rgb(r, g, b)`, is dark. */
export function isDarkColour(colour) {
  const numbers = (colour.match(/[\d.]+/g) || []).map(Number);
  if (numbers.length < 3 || numbers[3] === 0) return null;
  return 0.2126 * numbers[0] + 0.7152 * numbers[1] + 0.0722 * numbers[2] < 110;
}

/** Whether the page is dark: by JupyterLab's mark, else by VS Code's, else by the system's wish. */
export function isDark() {
  const mark = document.body.dataset.jpThemeLight;
  if (mark) return mark === "false";
  if (document.body.classList.contains("vscode-dark")) return true;
  if (document.body.classList.contains("vscode-light")) return false;
  return globalThis.matchMedia ? matchMedia("(prefers-color-scheme: dark)").matches : false;
}

/** Call `show(dark)` now and whenever the page's theme changes. */
export function followTheme(root, show, signal) {
  let dark = null;
  const update = () => {
    if (isDark() === dark) return;
    dark = isDark();
    root.classList.toggle("scaw-dark", dark);
    show(dark);
  };
  update();
  const observer = new MutationObserver(update);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  signal.addEventListener("abort", () => observer.disconnect());
}

/** The frame of a view: keys stay inside it, Escape goes back to the notebook's cell, and clean-up is one abort. */
export function frame(el, name) {
  const controller = new AbortController();
  const root = element("section", {
    class: `scaw-root scaw-${name.toLowerCase().replace(/\W+/g, "-")}`,
    "aria-label": name,
    "data-lm-suppress-shortcuts": "true",
  });
  listen(root, "keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Tab") event.stopPropagation();
  }, controller.signal);
  listen(el, "keydown", (event) => { // after the view, which may have its own use for the key
    if (event.key === "Escape" && !event.defaultPrevented) root.closest(".jp-Cell")?.focus();
  }, controller.signal);
  el.append(root);
  return { root, signal: controller.signal, remove: () => { controller.abort(); root.remove(); } };
}

/** A region that a screen reader speaks, at most once in `interval` milliseconds. */
export function announcer(root, signal, interval = 10000) {
  const region = element("div", { class: "scaw-quiet", role: "status", "aria-live": "polite" });
  root.append(region);
  let last = -Infinity;
  return (text, atOnce = false) => {
    const now = performance.now();
    if (!atOnce && now - last < interval) return;
    last = now;
    region.textContent = text;
  };
}

/** Show the trait `error` of a model as a sentence with its mend. */
export function errorNotice(model, signal) {
  const host = element("div", { role: "alert" });
  const show = () => {
    const error = model.get("error");
    host.replaceChildren();
    if (!error) return;
    host.append(element("div", { class: "scaw-notice scaw-error" },
      element("strong", {}, "✕ " + error.what), " ", error.mend ? element("span", {}, error.mend) : null));
  };
  follow(model, ["error"], show, signal);
  show();
  return host;
}

/** A badge that says the status in words. `detached` wins over what the kernel said last. */
export function statusBadge() {
  const badge = element("span", { class: "scaw-badge" });
  return {
    badge,
    show(status) {
      badge.className = `scaw-badge scaw-${status}`;
      badge.textContent = STATUS_WORDS[status] || status;
    },
  };
}

/**
 * Where the kernel of a view is, without asking it: "there", "unreachable" (perhaps only for a moment) or "gone" for good;
 * "there" if the front end does not say.
 *
 * Seen in JupyterLab 4.6 with ipywidgets 8.1 and anywidget 0.11 (tests/browser/test_harness.py): the model that `render`
 * gets has neither `comm` nor `comm_live`. But its `layout` is a whole model of the same kernel, whose comm ends with ours.
 *
 *   what happens       comm_live_update   layout.comm_live   manager.kernel             kernel.hasComm(layout)   after
 *   restart            twice              false              same object                false                    0.1 s
 *   process dies       once               false              same object                false                    3-4 s
 *   shutdown           no                 true               null                       -                        1 s
 *   another kernel     no                 true               a new object               false                    at once
 *   server is away     no                 true               connectionStatus is        true                     0.5 s
 *                                                            "connecting" for minutes
 *   page reload, interrupt, a busy kernel change nothing of this.
 */
export function kernelState(model) {
  const layout = model.get("layout");
  if (layout?.comm_live === false) return "gone";
  const manager = model.widget_manager;
  if (!manager || !("kernel" in manager)) return "there";
  const kernel = manager.kernel;
  if (!kernel || kernel.isDisposed) return "gone";
  if (layout?.model_id && kernel.hasComm?.(layout.model_id) === false) return "gone";
  return (kernel.connectionStatus ?? "connected") === "connected" ? "there" : "unreachable";
}

/** Call `tell(true)` when the kernel is gone, or out of reach for more than 2 s, and `tell(false)` when it is back. */
export function followKernel(model, tell, signal, interval = 1000) {
  let told = false;
  let misses = 0;
  const check = () => {
    const state = kernelState(model);
    misses = state === "unreachable" ? misses + 1 : 0;
    const gone = state === "gone" || misses * interval > 2000;
    if (gone !== told) tell((told = gone));
  };
  const soon = () => setTimeout(check, 0); // the event comes model by model, perhaps ours before the layout's
  const timer = setInterval(check, interval);
  model.on("comm_live_update", soon);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    model.off("comm_live_update", soon);
  });
  check();
}

/** Number for a cell of a table or a tooltip. */
export function formatNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumFractionDigits: size >= 100 ? 1 : size >= 1 ? 3 : 5 });
}

/** Seconds in words. */
export function formatSeconds(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Save a blob under a name, as a download. */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
