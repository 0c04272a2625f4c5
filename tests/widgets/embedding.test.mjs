/** Pure functions behind views of cells: selections as bits, colours on dark paper, where keys lead. */
import assert from "node:assert/strict";
import test from "node:test";

import {
  combine, contrast, countOf, countsOf, drawingOrder, fittedRanges, inverse, maskBetween, maskOf, maskOfCode, modeOf, moved,
  nextOption, nextWithLetter, pack, placesOf, rounded, sameMask, selectionText, summaryOf, taken, typed, unpack, visible, visibleScale,
} from "../../scarches_widgets/widgets/js/cells.js";

const mask = (...cells) => Uint8Array.from(cells);

test("a selection survives being packed into bits, lowest bit first", () => {
  const selection = mask(1, 0, 0, 1, 0, 0, 0, 0, 1, 1);
  assert.deepEqual([...pack(selection)], [9, 3]);
  assert.deepEqual(unpack(new DataView(pack(selection).buffer), 10), selection);
});

test("bits that begin in the middle of a buffer are read from there", () => {
  const buffer = Uint8Array.from([255, 255, 9, 3, 255]).buffer;
  assert.deepEqual([...unpack(new DataView(buffer, 2, 2), 10)], [1, 0, 0, 1, 0, 0, 0, 0, 1, 1]);
});

test("nothing is selected where the bits are missing", () => {
  assert.deepEqual([...unpack(null, 3)], [0, 0, 0]);
  assert.deepEqual([...unpack(new DataView(new ArrayBuffer(0)), 3)], [0, 0, 0]);
});

test("chosen cells replace, join or leave the selection", () => {
  const [current, chosen] = [mask(1, 1, 0, 0), mask(0, 1, 1, 0)];
  assert.deepEqual([...combine(current, chosen, "replace")], [0, 1, 1, 0]);
  assert.deepEqual([...combine(current, chosen, "add")], [1, 1, 1, 0]);
  assert.deepEqual([...combine(current, chosen, "subtract")], [1, 0, 0, 0]);
  assert.deepEqual([...current], [1, 1, 0, 0]);
  assert.deepEqual([...inverse(current)], [0, 0, 1, 1]);
  assert.ok(sameMask(current, mask(1, 1, 0, 0)) && !sameMask(current, chosen));
});

test("Shift adds and Alt takes away, whatever mode is set", () => {
  assert.equal(modeOf({ shiftKey: true }, "subtract"), "add");
  assert.equal(modeOf({ altKey: true }, "replace"), "subtract");
  assert.equal(modeOf({}, "add"), "add");
});

test("the sentence about a selection has counts and a share", () => {
  assert.equal(selectionText(412, 4000), "412 of 4,000 cells selected (10.3 %)");
  assert.equal(selectionText(0, 4000), "0 of 4,000 cells selected");
});

test("numbers are read from bytes at any offset", () => {
  const buffer = new ArrayBuffer(9);
  new DataView(buffer).setFloat32(1, 1.5, true);
  new DataView(buffer).setFloat32(5, -2, true);
  assert.deepEqual([...typed(new DataView(buffer, 1, 8), "float32")], [1.5, -2]);
  assert.deepEqual([...typed(new DataView(Uint8Array.from([1, 2, 1]).buffer, 0, 2), "uint16")], [513]);
});

test("cells are drawn in an order that mixes groups, loses none and is always the same", () => {
  const order = drawingOrder(1000);
  assert.deepEqual([...order].sort((a, b) => a - b), Array.from({ length: 1000 }, (_, i) => i));
  assert.deepEqual(order, drawingOrder(1000));
  const early = [...order.slice(0, 500)].filter((cell) => cell < 500).length;
  assert.ok(early > 200 && early < 300, `${early} of the first half are drawn early`);
});

test("a selection goes to the drawing order and back", () => {
  const order = drawingOrder(50);
  const selection = Uint8Array.from({ length: 50 }, (_, i) => (i % 3 === 0 ? 1 : 0));
  assert.deepEqual(maskOf(placesOf(selection, order), order), selection);
  assert.deepEqual([...taken(Float32Array.from(order), order)], [...order].map((i) => order[i]));
});

test("groups are counted, and cells selected by group or by value; no value is in no range", () => {
  const codes = Uint8Array.from([0, 1, 1, 2]);
  assert.deepEqual(countsOf(codes, 4, mask(1, 0, 1, 1)), { all: [1, 2, 1, 0], selected: [1, 1, 1, 0] });
  assert.equal(countOf(maskOfCode(codes, 1)), 2);
  assert.deepEqual([...maskBetween(Float32Array.from([1, NaN, 2, 3]), -Infinity, 2)], [1, 0, 1, 0]);
});

test("the numbers of a selection are summarised, also of none", () => {
  const values = Float32Array.from([4, 1, NaN, 3, 100]);
  assert.deepEqual(summaryOf(values, mask(1, 1, 1, 1, 0)), { n: 3, min: 1, median: 3, mean: 8 / 3, max: 4 });
  assert.equal(summaryOf(values, mask(0, 0, 1, 0, 0)).n, 0);
});

test("all points are in sight, in one scale for both axes", () => {
  const { x, y } = fittedRanges([0, 10], [-1, 1], 400, 200);
  assert.ok(x.start < 0 && x.end > 10 && y.start < -1 && y.end > 1);
  assert.ok(Math.abs((x.end - x.start) / 400 - (y.end - y.start) / 200) < 1e-9);
});

test("axes of different quantities have a scale each", () => {
  const { x, y } = fittedRanges([0, 10], [-1, 1], 400, 200, false);
  assert.ok(x.start < 0 && x.end > 10 && x.end < 11 && y.start < -1 && y.end > 1 && y.end < 1.1);
  assert.ok(fittedRanges([5, 5], [0, 1], 400, 200, false).x.end > 5);
});

test("one cell, or many at one place, still have a range", () => {
  const { x, y } = fittedRanges([5], [5], 400, 200);
  assert.ok(x.end > x.start && y.end > y.start && Number.isFinite(x.start));
});

test("a range moves by its own length and zooms around its middle", () => {
  assert.deepEqual(moved({ start: 0, end: 10 }, 0.1), { start: 1, end: 11 });
  assert.deepEqual(moved({ start: 0, end: 10 }, 0, 0.5), { start: 2.5, end: 7.5 });
});

test("arrows, Home, End and letters move in the list and stay in it", () => {
  assert.equal(nextOption(0, "ArrowUp", 5), 0);
  assert.equal(nextOption(0, "ArrowDown", 5), 1);
  assert.equal(nextOption(1, "PageDown", 5), 4);
  assert.equal(nextOption(3, "Home", 5), 0);
  assert.equal(nextOption(0, "x", 5), null);
  assert.equal(nextWithLetter(["B cell", "T cell", "Tuft"], 1, "t"), 2);
  assert.equal(nextWithLetter(["B cell", "T cell", "Tuft"], 2, "t"), 1);
  assert.equal(nextWithLetter(["B cell"], 0, "z"), null);
});

test("a dark colour is lifted until it can be seen on dark paper, others stay", () => {
  assert.ok(contrast("#004b76", "#1b1b20") < 2);
  assert.ok(contrast(visible("#004b76", "#1b1b20", 2), "#1b1b20") >= 2);
  assert.equal(visible("#e69f00", "#1b1b20", 2), "#e69f00");
  assert.ok(contrast(visible("#ffffff", "#ffffff", 1.5), "#ffffff") >= 1.5);
  assert.equal(contrast("#000000", "#ffffff"), 21);
});

test("a scale loses the end that the paper would swallow, but never all of it", () => {
  const greys = Array.from({ length: 100 }, (_, i) => "#" + (155 + i).toString(16).padStart(2, "0").repeat(3));
  const seen = visibleScale(greys, "#ffffff", 1.2);
  assert.ok(seen.length > 50 && seen.length < 100 && seen[0] === greys[0]);
  assert.deepEqual(visibleScale(["#fffffe", "#ffffff"], "#ffffff", 3), ["#fffffe", "#ffffff"]);
});

test("the ends of a range are rounded outward", () => {
  assert.equal(rounded(410.992, Math.floor), 410.9);
  assert.equal(rounded(4613.66, Math.ceil), 4614);
  assert.equal(rounded(-0.0123456, Math.floor), -0.01235);
  assert.equal(rounded(0, Math.ceil), 0);
});
