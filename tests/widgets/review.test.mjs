/** Pure functions behind a review of labels: live counts, orders, dots, labels that are meant, and the trail in words. */
import assert from "node:assert/strict";
import test from "node:test";

import { crossed, dotRowName, dotSize, entryWords, labelMeant, ordered, shades, unknownAt } from "../../scarches_widgets/widgets/js/review.js";

const ROWS = [
  { label: "T", n: 10, unknown: 4, rejected: 1, mean: 0.2, differ: 0, own: null },
  { label: "B", n: 5, unknown: 3, rejected: 0, mean: 0.6, differ: 2, own: 0.4 },
];
const above = Int32Array.from([...Array.from({ length: 101 }, (_, k) => Math.max(0, 9 - Math.floor(k / 10))), ...new Array(101).fill(2)]);

test("a dragged threshold counts the cells above it, and those rejected by hand", () => {
  assert.deepEqual(unknownAt(above, ROWS, 0), [10, 3]);
  assert.deepEqual(unknownAt(above, ROWS, 0.5), [5, 3]);
  assert.deepEqual(unknownAt(above, ROWS, 1), [1, 3]);
  assert.deepEqual(unknownAt(above, ROWS, 0.29), [8, 3], "0.29 × 100 is not quite 29");
  assert.deepEqual(unknownAt(above, ROWS, 0.7, "B"), [4, 2]);
});

test("types are put in an order, and the rows stay as they were", () => {
  assert.deepEqual(ordered(ROWS, "cells").map(({ label }) => label), ["T", "B"]);
  for (const order of ["uncertain", "unknown", "differ"]) assert.deepEqual(ordered(ROWS, order).map(({ label }) => label), ["B", "T"]);
  assert.equal(ROWS[0].label, "T");
});

test("a dot's area is the share, and its shade the mean beside the gene's largest", () => {
  assert.equal(dotSize(0, 20), 0);
  assert.equal(dotSize(0.25, 20), 10);
  assert.equal(dotSize(1e-9, 20), 2);
  assert.deepEqual(shades([{ mean: [1, 0] }, { mean: [4, 0] }]), [[0.25, 0], [1, 0]]);
  assert.deepEqual(shades([]), []);
  assert.equal(dotRowName({ kind: "doubtful", label: "T" }, "Unknown"), "T, Unknown");
  assert.equal(dotRowName({ kind: "cell", label: "T" }, "Unknown"), "this cell");
});

test("a label is meant by its name in whatever case, its own case first", () => {
  assert.equal(labelMeant(" b CELL", ["B cell", "T"]), "B cell");
  assert.equal(labelMeant("t", ["T", "t"]), "t");
  assert.equal(labelMeant("NK", ["B cell", "T"]), null);
});

test("arrows move within a table", () => {
  assert.deepEqual(crossed({ row: 0, column: 0 }, "ArrowUp", 3, 4), { row: 0, column: 0 });
  assert.deepEqual(crossed({ row: 1, column: 1 }, "ArrowDown", 3, 4), { row: 2, column: 1 });
  assert.deepEqual(crossed({ row: 1, column: 1 }, "End", 3, 4), { row: 1, column: 3 });
  assert.equal(crossed({ row: 1, column: 1 }, "a", 3, 4), null);
});

test("entries of the trail are sentences", () => {
  const entry = { action: "accept", scope: "12 cells: unknown B", label: null, threshold: 0.5, by: "consensus", comment: "" };
  assert.equal(entryWords(entry, "Unknown"), "Accepted 12 cells, Unknown B");
  assert.equal(entryWords({ ...entry, action: "undo 3", scope: "" }, "Unknown"), "Undid entry 3");
  assert.equal(entryWords({ ...entry, action: "threshold", label: "B", threshold: null }, "Unknown"), "Threshold of B: as all");
  assert.equal(entryWords({ ...entry, action: "relabel", scope: "1 cell", label: "T", comment: "why" }, "Unknown"), "Relabelled 1 cell as T: “why”");
});
