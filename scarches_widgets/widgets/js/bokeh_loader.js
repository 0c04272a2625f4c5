/** Takes BokehJS out of the installed bokeh wheel's bytes, once per page; the widget itself is never shown. */
import { bokehEntry } from "./bokeh_page.js";

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** The text when the page has nothing else to do, or after a second: evaluating it keeps views from getting ready. */
function whenIdle(text) {
  const later = globalThis.requestIdleCallback ?? ((go) => setTimeout(go, 20));
  return new Promise((resolve) => later(() => resolve(text), { timeout: 1000 }));
}

/** Evaluate UMD scripts as the page's own module would: without `module`, `exports` and `define` of some other loader. */
async function evaluated(source) {
  const other = globalThis.Bokeh;
  const text = `export default (function (module, exports, define) {\n${source}\n})`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try {
    (await import(url)).default.call(globalThis);
    return globalThis.Bokeh;
  } finally {
    URL.revokeObjectURL(url);
    if (other) globalThis.Bokeh = other;
  }
}

export default {
  initialize({ model }) { // without waiting for the script: a model that is not ready within 2 s is a fault to anywidget
    const entry = bokehEntry(model.get("version"));
    const source = model.get("source");
    if (!entry.started && source.byteLength) {
      entry.started = true;
      unpacked(source).then(whenIdle).then(evaluated).then(entry.resolve, entry.reject);
    }
    model.set("source", new DataView(new ArrayBuffer(0))); // not saved back: keeps 0.5 MB out of saved notebooks
  },
};
