/** What a page says to the kernel about many cells, and how it reads what it is told. */
import assert from "node:assert/strict";
import test from "node:test";

import { keptHere, keptThere } from "../../scarches_widgets/widgets/js/cell_keepers.js";
import { cornersOf, fewer } from "../../scarches_widgets/widgets/js/raster_chart.js";
import { belowOf } from "../../scarches_widgets/widgets/js/spatial_board.js";

/** A model as anywidget hands it to `render`. */
function fakeModel(state) {
  const sent = [];
  return { sent, get: (name) => state[name], set(name, value) { state[name] = value; }, save_changes() { sent.push("saved"); }, send: (content) => sent.push(content) };
}

test("a line around cells has its corners, and one that surrounds nothing has none", () => {
  assert.deepEqual(cornersOf({ type: "rect", x0: 0, x1: 2, y0: 1, y1: 3 }), { x: [0, 2, 2, 0], y: [1, 1, 3, 3] });
  const x = Float64Array.of(0, 1, 1);
  assert.deepEqual(cornersOf({ type: "poly", x, y: x }), { x: [0, 1, 1], y: [0, 1, 1] });
  assert.equal(cornersOf({ type: "poly", x: [0, 1], y: [0, 1] }), null);
  assert.equal(cornersOf({ type: "point", x: 0, y: 0 }), null);
});

test("of a scale some colours are enough, its ends among them", () => {
  const colours = Array.from({ length: 256 }, (_, i) => i);
  const some = fewer(colours);
  assert.deepEqual([some.length, some[0], some.at(-1)], [64, 0, 255]);
  assert.deepEqual(fewer([1, 2, 3]), [1, 2, 3]);
});

test("the kernel is told which category or numbers are chosen, and an open end is none", () => {
  let gone = false;
  const model = fakeModel({ tally: { n: 3, all: [4, 2], selected: [3, 0] }, coloring: { names: ["a", "b"] } });
  const cells = keptThere(model, () => gone);
  cells.colour();
  cells.choose({ code: 1 }, "add");
  cells.choose({ low: 2, high: Infinity }, "replace");
  cells.choose({ what: "inverse" });
  assert.deepEqual(model.sent, [
    { op: "choose", code: 1, mode: "add" }, { op: "choose", low: 2, high: null, mode: "replace" },
    { op: "choose", what: "inverse", mode: "replace" },
  ]);
  assert.equal(cells.count(), 3);
  assert.deepEqual(cells.counts(), { all: [4, 2], selected: [3, 0] });
  gone = true;
  cells.choose({ what: "all" });
  assert.equal(model.sent.length, 3);
});

test("until the counts of the colours shown are there, each category has none", () => {
  const tallies = [{ n: 3, all: [4, 2], selected: [3, 0] }, { n: 3, all: { n: 6, mean: 0.5 }, selected: { n: 3, mean: 1 } }];
  const colours = [{ kind: "categories", names: ["a", "b"] }, { kind: "numbers", names: [] }, { kind: "categories", names: ["a", "b", "c"] }];
  const model = fakeModel({ tally: tallies[0], coloring: colours[0] });
  const cells = keptThere(model, () => false);
  const none = (n) => ({ all: new Array(n).fill(0), selected: new Array(n).fill(0) });
  cells.colour();
  model.set("coloring", colours[1]);
  assert.deepEqual(cells.counts(), { all: [4, 2], selected: [3, 0] }, "new colours came, and are not read yet");
  model.set("tally", tallies[1]);
  assert.deepEqual(cells.counts(), none(2), "the counts came first");
  model.set("coloring", colours[2]);
  cells.colour();
  assert.deepEqual(cells.counts(), none(3), "the colours came first");
});

test("cells in the page are chosen in the same words", () => {
  const values = Uint8Array.of(0, 1, 1, 2);
  const model = fakeModel({ selected: null, coloring: { dtype: "uint8", values: new DataView(values.buffer), names: ["a", "b", "c"] } });
  const cells = keptHere(model, 4, () => false);
  cells.colour();
  const chosen = [[{ code: 1 }, 6], [{ what: "inverse" }, 9], [{ what: "all" }, 15], [{ low: 2, high: 2 }, 8], [{ what: "none" }, 0]];
  for (const [what, bits] of chosen) {
    cells.choose(what);
    assert.equal(model.get("selected").getUint8(0), bits);
    cells.read();
  }
  assert.equal(model.sent.length, 5);
});

test("of many cells the number below each hundredth is known", () => {
  const counts = Array.from({ length: 101 }, (_, i) => 10 * i);
  assert.equal(belowOf(counts, 0.29), 290);
  assert.equal(belowOf(counts, 1), 1000);
});
