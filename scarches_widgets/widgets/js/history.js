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

  /** As text with a header; cells of names are quoted where they need to be. */
  csv() {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [this.names.map(quoted).join(",")];
    for (let i = 0; i < this.length; i += 1) {
      lines.push(this.names.map((name) => {
        const value = this.columns[name][i];
        return Number.isNaN(value) ? "" : String(value);
      }).join(","));
    }
    return lines.join("\n") + "\n";
  }
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
