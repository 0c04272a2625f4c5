/** Numbers of a review of labels, as pure functions: live counts, orders, shades of dots and cells. */

const STEPS = 100; // of the slider

/**
 * How many cells of each row are Unknown at a threshold: those above it, and those rejected by hand.
 * @param above Int32Array, rows × 101
 * @param of the label whose own threshold it is; null: that of all that have none
 */
export function unknownAt(above, rows, threshold, of = null) {
  const moves = (row) => (of === null ? row.own === null : row.label === of);
  const at = Math.round(threshold * STEPS);
  return rows.map((row, i) => (moves(row) ? row.rejected + above[i * (STEPS + 1) + at] : row.unknown));
}

const KEYS = {
  cells: (row) => -row.n,
  uncertain: (row) => -row.mean,
  unknown: (row) => -row.unknown / row.n,
  differ: (row) => -row.differ / row.n,
};
export const ORDERS = [["cells", "most cells"], ["uncertain", "most uncertain"], ["unknown", "most Unknown"], ["differ", "models differ most"]];

/** The rows in an order; those that are alike stay as they are. */
export function ordered(rows, order) {
  const key = KEYS[order];
  return [...rows].sort((a, b) => key(a) - key(b) || 0);
}

/** The diameter of a dot for a share of expressing cells, its area in proportion. */
export function dotSize(share, largest) {
  return share > 0 ? Math.max(2, largest * Math.sqrt(share)) : 0;
}

/** Each mean as a share of its gene's largest one. */
export function shades(rows) {
  const largest = (rows[0]?.mean ?? []).map((_, gene) => Math.max(...rows.map((row) => row.mean[gene])));
  return rows.map((row) => row.mean.map((mean, gene) => (largest[gene] > 0 ? mean / largest[gene] : 0)));
}

/** What a row of the dot plot is called. */
export function dotRowName({ kind, label }, unknown) {
  return { here: label, sure: `${label}, kept`, doubtful: `${label}, ${unknown}`, cell: "this cell", other: label }[kind];
}

/** A label that is meant by a text: the one that it names, whatever its case; null if there is none. */
export function labelMeant(text, labels) {
  const plain = text.trim();
  return labels.find((label) => label === plain) ?? labels.find((label) => label.toLowerCase() === plain.toLowerCase()) ?? null;
}

/** Where the cursor of a table goes by an arrow, Home or End; null for other keys. */
export function crossed({ row, column }, key, nRows, nColumns) {
  const moves = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -nColumns], End: [0, nColumns],
  }[key];
  if (!moves) return null;
  const within = (value, n) => Math.max(0, Math.min(n - 1, value));
  return { row: within(row + moves[0], nRows), column: within(column + moves[1], nColumns) };
}

/** One entry of the trail as a sentence. */
export function entryWords({ action, scope, label, threshold, by, comment }, unknown) {
  const cells = scope ? scope.replace(": ", ", ").replace("unknown", unknown) : "";
  const done = {
    begin: `Began with ${by} at ${threshold}`,
    by: `Decided by ${by}`,
    threshold: label ? `Threshold of ${label}: ${threshold ?? "as all"}` : `Threshold: ${threshold}`,
    accept: `Accepted ${cells}`,
    reject: `Rejected ${cells}`,
    relabel: `Relabelled ${cells} as ${label}`,
    comment: `Commented on ${cells}`,
    apply: `Applied as ${label}`,
  }[action] ?? action.replace("undo", "Undid entry").replace("redo", "Did again entry");
  return comment ? `${done}: “${comment}”` : done;
}
