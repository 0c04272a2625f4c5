/** Pure functions behind the table of gene programs: which rows are listed, bars, odds and sentences. */
import assert from "node:assert/strict";
import test from "node:test";

import { barOf, coverageWords, decimals, listedRows, odds } from "../../scarches_widgets/widgets/js/programs.js";

const TERMS = ["Interferon", "HYPOXIA", "markers of B", "learnt"];
const ROWS = [{ i: 2, n: 5, on: true }, { i: 0, n: 50, on: true }, { i: 1, n: 9, on: false }, { i: 3, n: 100, on: true }];
const listed = (wanted) => listedRows(ROWS, TERMS, { search: "", least: 0, off: false, having: null, ...wanted }).map(({ i }) => i);

test("programs are listed in their order, without those that are switched off", () => {
  assert.deepEqual(listed({}), [2, 0, 3]);
  assert.deepEqual(listed({ off: true }), [2, 0, 1, 3]);
});

test("a search looks at any part of a name, and filters add up", () => {
  assert.deepEqual(listed({ search: "hypo", off: true }), [1]);
  assert.deepEqual(listed({ search: "(" }), []);
  assert.deepEqual(listed({ least: 6 }), [0, 3]);
  assert.deepEqual(listed({ having: [0, 2], least: 6 }), [0]);
  assert.deepEqual(listed({ having: [] }), []);
});

test("bars begin at the left, or in the middle where values have signs", () => {
  assert.deepEqual(barOf(1, 2, false), { start: 0, length: 50 });
  assert.deepEqual(barOf(1, 2, true), { start: 50, length: 25 });
  assert.deepEqual(barOf(-2, 2, true), { start: 0, length: 50 });
  assert.deepEqual(barOf(0, 0, true), { start: 50, length: 0 });
});

test("a Bayes factor is told as odds for one of the groups", () => {
  assert.equal(odds(0, "A", "B"), "even");
  assert.equal(odds(Math.log(2), "A", "B"), "2.0 : 1 for A");
  assert.equal(odds(-Math.log(30), "A", "B"), "30 : 1 for B");
  assert.equal(odds(27, "A", "B"), ">1,000 : 1 for A");
});

test("numbers have as many decimals as they need, and a sign only if it shows", () => {
  assert.deepEqual([decimals(2.345, false), decimals(0.01234, true), decimals(-0.5, true), decimals(-0.0001, true)],
    ["2.35", "+0.012", "−0.500", "0.000"]);
});

test("sentences tell what of a set was measured, what was learnt, and what is unclear", () => {
  const program = { n_set: 64, n_annotated: 57, n_here: 55, n_loaded: 57, n_up: 40, n_joined: 0, on: true, unclear: false, confidence: 0.9 };
  assert.deepEqual(coverageWords(program), [
    "57 of the 64 genes of this set are in the model (89 %).",
    "55 of them are in these cells' data; the others count as zero.",
    "57 genes have a loading; where its latent is higher, 40 of them go up and 17 down.",
  ]);
  assert.match(coverageWords({ ...program, n_set: 0, n_annotated: 1, n_here: 1 })[0], /^1 gene of this set is in the model/);
  assert.match(coverageWords({ ...program, n_set: 0, n_annotated: 0, n_here: 0 })[0], /it was learnt/);
  assert.match(coverageWords({ ...program, on: false }).at(-1), /switched it off/);
  assert.match(coverageWords({ ...program, unclear: true, confidence: 0.123 }).at(-1), /unclear \(confidence 0.12 of 1\)/);
});
