/** The rows of a run as columns; grows by messages, starts from state. Pure, so that node can test it. */

export const FIXED = ["epoch", "learning_rate", "kl_weight"];

/** Rows of float32, row by row, as one array per name. `buffer` is a DataView or an ArrayBuffer. */
export function toColumns(buffer, names) {
  const view = ArrayBuffer.isView(buffer) ? buffer : new DataView(buffer);
  const n = view.byteLength / 4 / names.length;
  const columns = Object.fromEntries(names.map((name) => [name, new Array(n)]));
  for (let row = 0; row < n; row += 1) {
    names.forEach((name, i) => {
      columns[name][row] = view.getFloat32((row * names.length + i) * 4, true);
    });
  }
  return columns;
}

export class History {
  constructor() {
    this.reset([]);
  }

  reset(keys) {
    this.names = [...FIXED, ...keys];
    this.columns = Object.fromEntries(this.names.map((name) => [name, []]));
  }

  get length() {
    return this.columns.epoch.length;
  }

  /** The names of losses. */
  get keys() {
    return this.names.slice(FIXED.length);
  }

  /** Replace everything by the state's bytes. */
  load(keys, buffer) {
    this.reset(keys);
    if (buffer?.byteLength) this.columns = toColumns(buffer, this.names);
  }

  /**
   * Append rows that begin at row `start`.
   * @returns the new rows as columns, null if there are none, or "gap" if a message is missing before them
   */
  append(start, buffer) {
    if (!buffer?.byteLength) return null;
    if (start > this.length) return "gap";
    const fresh = toColumns(buffer, this.names);
    const known = this.length - start;
    if (known >= fresh.epoch.length) return null;
    for (const name of this.names) {
      fresh[name] = fresh[name].slice(known);
      for (const value of fresh[name]) this.columns[name].push(value);
    }
    return fresh;
  }

  row(i) {
    return Object.fromEntries(this.names.map((name) => [name, this.columns[name][i]]));
  }
}

/**
 * The exponential mean of a column, in which each epoch before weighs `weight` times the one after it; not biased towards
 * the first value. NaN stays NaN and counts for nothing.
 */
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let weights = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    sum = value + weight * sum;
    weights = 1 + weight * weights;
    return sum / weights;
  });
}

/** What no line can show, since its neighbours are missing: rows in which `keys` have such values; NaN where they have not. */
export function standingAlone(columns, keys) {
  const isAlone = (values, i) => Number.isFinite(values[i]) && !Number.isFinite(values[i - 1]) && !Number.isFinite(values[i + 1]);
  const rows = [...columns.epoch.keys()].filter((i) => keys.some((key) => isAlone(columns[key], i)));
  const points = keys.map((key) => [key, rows.map((i) => (isAlone(columns[key], i) ? columns[key][i] : NaN))]);
  return { epoch: rows.map((i) => columns.epoch[i]), ...Object.fromEntries(points) };
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const cell = (value) => (value === undefined || Number.isNaN(value) ? "" : String(value));

/** Histories as text with a header, one line per epoch; of several [name, history], the name in front of each line. */
export function asCsv(runs) {
  const names = [...new Set(runs.flatMap(([, history]) => history.names))];
  const several = runs.length > 1;
  const lines = [(several ? ["run", ...names] : names).map(quoted).join(",")];
  for (const [name, history] of runs) {
    for (let i = 0; i < history.length; i += 1) {
      const cells = names.map((key) => cell(history.columns[key]?.[i]));
      lines.push((several ? [quoted(name), ...cells] : cells).join(","));
    }
  }
  return lines.join("\n") + "\n";
}

/** Of which terms curves can be shown; terms that show the same curves are one choice: [{ terms, curves }, …]. */
export function choicesOf(series) {
  const choices = new Map();
  for (const term of new Set(series.map((one) => one.term))) {
    const curves = series.filter((one) => one.seen_by.includes(term));
    const same = JSON.stringify(curves.map((one) => [one.run, one.key]));
    if (choices.has(same)) choices.get(same).terms.push(term);
    else choices.set(same, { terms: [term], curves });
  }
  return [...choices.values()];
}

/** The row of an epoch; null if the run has none. Epochs ascend, and mostly each is its own row. */
export function rowOf(history, epoch) {
  const { epoch: epochs } = history.columns;
  if (epochs[epoch] === epoch) return history.row(epoch);
  const i = epochs.indexOf(epoch);
  return i < 0 ? null : history.row(i);
}

/** Where the cursor goes: a row, or null before there are any. */
export function moveCursor(cursor, key, length, shift = false) {
  if (!length) return null;
  const at = cursor === null ? length - 1 : cursor;
  const by = shift ? 10 : 1;
  const target = { ArrowLeft: at - by, ArrowRight: at + by, Home: 0, End: length - 1 }[key];
  if (target === undefined) return cursor;
  if (cursor === null && key === "ArrowLeft") return length - 1;
  return Math.max(0, Math.min(length - 1, target));
}

/**
 * Where the axis of epochs ends: at the last epoch to come, but no further than a few times what there is, lest the
 * curve be a sliver; in steps, lest it move all the time.
 */
export function axisEnd(length, maxEpochs, ended = false) {
  const all = Math.max(1, length - 1);
  if (ended || !maxEpochs) return all;
  let end = 50;
  while (end < 2 * length) end *= 2;
  return Math.max(all, 2 * end > maxEpochs ? maxEpochs - 1 : end);
}
