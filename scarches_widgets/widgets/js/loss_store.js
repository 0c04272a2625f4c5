/** What has arrived of a monitor's runs so far: one store per widget model, shared by its views. */
import { History } from "./history.js";

export const WATCHED = "0"; // key of the run that is watched; others are compared with it

const stores = new WeakMap();

class Store extends EventTarget {
  constructor(model) {
    super();
    this.model = model;
    this.histories = new Map();
    this.load();
    for (const name of ["values", "series", "runs"]) model.on(`change:${name}`, () => this.load());
    model.on("msg:custom", (content, buffers) => {
      if (content?.op === "append") this.append(content, buffers);
    });
  }

  /** Of the run that is watched; empty before there is one. */
  get history() {
    return this.histories.get(WATCHED) ?? new History();
  }

  /** How many runs are drawn. */
  get n() {
    return this.model.get("runs").length;
  }

  keysOf(run) {
    return this.model.get("series").filter((one) => one.run === run).map((one) => one.key);
  }

  load() {
    const values = this.model.get("values") ?? {};
    const loaded = new Map();
    for (const { key } of this.model.get("runs")) {
      const keys = this.keysOf(key);
      const history = new History();
      const bytes = values[key];
      history.reset(keys);
      if (bytes?.byteLength) {
        if (bytes.byteLength % (4 * history.names.length)) return; // series and values change one after the other
        history.load(keys, bytes);
      }
      loaded.set(key, history);
    }
    this.histories = loaded;
    this.info = this.model.get("info") ?? { n_epochs: 0, notes: [] };
    this.dispatchEvent(new Event("reset"));
  }

  append({ info, parts }, buffers) {
    const isNext = info.run !== this.info.run;
    if (isNext) this.history.reset(this.keysOf(WATCHED));
    this.info = info;
    if (isNext) this.dispatchEvent(new Event("reset"));
    const fresh = new Map();
    for (const [i, { key, start }] of parts.entries()) {
      const history = this.histories.get(key);
      const rows = history ? history.append(start, buffers[i]) : "gap";
      if (rows === "gap") {
        this.model.send({ op: "resend" });
        return;
      }
      if (rows) fresh.set(key, rows);
    }
    this.dispatchEvent(Object.assign(new Event("grown"), { fresh }));
  }
}

export function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}
