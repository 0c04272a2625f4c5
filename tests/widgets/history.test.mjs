import assert from "node:assert/strict";
import test from "node:test";
import { asCsv, axisEnd, choicesOf, History, moveCursor, rowOf, smoothed, standingAlone, toColumns } from "../../scarches_widgets/widgets/js/history.js";

const rows = (...values) => new Float32Array(values.flat()).buffer;
const row = (epoch, train, val) => [epoch, 0.5, 1, train, val];

test("rows become columns, whatever the offset of their view", () => {
  const padded = new Uint8Array(4 + 40);
  padded.set(new Uint8Array(rows(row(0, 9, 8), row(1, 7, 6))), 4);
  const columns = toColumns(new DataView(padded.buffer, 4), ["epoch", "learning_rate", "kl_weight", "a", "b"]);
  assert.deepEqual(columns.a, [9, 7]);
  assert.deepEqual(columns.b, [8, 6]);
});

test("what no line can show is told: a single epoch, and values between missing ones", () => {
  assert.deepEqual(standingAlone({ epoch: [0], train: [9], val: [NaN] }, ["train", "val"]), { epoch: [0], train: [9], val: [NaN] });
  const columns = { epoch: [0, 1, 2, 3, 4], train: [9, 8, 7, 6, 5], val: [8, NaN, 7, NaN, 6] };
  assert.deepEqual(standingAlone(columns, ["train", "val"]), { epoch: [0, 2, 4], train: [NaN, NaN, NaN], val: [8, 7, 6] });
  assert.deepEqual(standingAlone(columns, ["train"]), { epoch: [], train: [] });
});

test("messages append, a repeated one changes nothing, a missing one is a gap", () => {
  const history = new History();
  history.load(["a", "b"], rows(row(0, 9, 8)));
  assert.deepEqual(history.keys, ["a", "b"]);
  assert.deepEqual(history.append(1, rows(row(1, 7, 6))).epoch, [1]);
  assert.equal(history.append(1, rows(row(1, 7, 6))), null);
  assert.deepEqual(history.append(1, rows(row(1, 7, 6), row(2, 5, 4))).epoch, [2]);
  assert.equal(history.append(7, rows(row(7, 1, 1))), "gap");
  assert.deepEqual(history.columns.epoch, [0, 1, 2]);
});

test("loading the state replaces what was there", () => {
  const history = new History();
  history.load(["a", "b"], rows(row(0, 9, 8), row(1, 7, 6)));
  history.load(["a"], new Float32Array([0, 0.1, 1, 3]).buffer);
  assert.equal(history.length, 1);
  assert.deepEqual(history.row(0), { epoch: 0, learning_rate: Math.fround(0.1), kl_weight: 1, a: 3 });
});

test("CSV has one line per epoch, quotes names that need it, and leaves NaN empty", () => {
  const history = new History();
  history.load(['a, "x"'], new Float32Array([0, 0.5, 1, NaN]).buffer);
  assert.equal(asCsv([["this run", history]]), 'epoch,learning_rate,kl_weight,"a, ""x"""\n0,0.5,1,\n');
});

test("the cursor starts at the last epoch, steps, jumps, and stays within the epochs", () => {
  assert.equal(moveCursor(null, "ArrowLeft", 0), null);
  assert.equal(moveCursor(null, "ArrowLeft", 5), 4);
  assert.equal(moveCursor(4, "ArrowLeft", 5), 3);
  assert.equal(moveCursor(3, "ArrowLeft", 50, true), 0);
  assert.equal(moveCursor(3, "End", 50), 49);
  assert.equal(moveCursor(49, "ArrowRight", 50), 49);
  assert.equal(moveCursor(2, "x", 50), 2);
});

test("the axis of epochs ends where the run will, but never far beyond the curve", () => {
  assert.equal(axisEnd(1, 30), 29);
  assert.equal(axisEnd(24, 60), 59);
  assert.equal(axisEnd(6, 100000), 50);
  assert.equal(axisEnd(60, 100000), 200);
  assert.equal(axisEnd(250, 400), 399);
  assert.equal(axisEnd(6, 400, true), 5);
  assert.equal(axisEnd(1, null), 1);
});

test("CSV of several runs says in each line which run it is, and leaves empty what a run has not", () => {
  const [one, other] = [new History(), new History()];
  one.load(["a"], new Float32Array([0, 0.5, 1, 3]).buffer);
  other.load(["b"], new Float32Array([0, 0.5, 1, 4]).buffer);
  assert.equal(asCsv([["x, y", one], ["z", other]]),
    'run,epoch,learning_rate,kl_weight,a,b\n"x, y",0,0.5,1,3,\nz,0,0.5,1,,4\n');
});

test("smoothing is the mean that pandas' ewm(alpha=1 - weight) gives, and passes over what is not a number", () => {
  assert.deepEqual(smoothed([1, 2, 3], 0), [1, 2, 3]);
  const [first, second, third] = smoothed([4, 1, 7], 0.5);
  assert.equal(first, 4);
  assert.equal(second, 2); // (1 + 0.5 * 4) / 1.5
  assert.ok(Math.abs(third - (7 + 0.5 + 1) / 1.75) < 1e-12);
  assert.deepEqual(smoothed([4, NaN, 4], 0.9), [4, NaN, 4]);
});

test("terms by which the same curves are seen are one choice", () => {
  const of = (run, term, ...others) => ({ run, key: `train_${term}`, term, seen_by: [term, ...others] });
  const series = [of("0", "all", "loss"), of("0", "kl"), of("1", "loss", "all"), of("1", "kl")];
  assert.deepEqual(choicesOf(series).map((one) => [one.terms, one.curves]), [
    [["all", "loss"], [series[0], series[2]]],
    [["kl"], [series[1], series[3]]],
  ]);
});

test("a row is found by its epoch, wherever it stands", () => {
  const history = new History();
  history.load(["a"], new Float32Array([0, 0, 0, 5, 10, 0, 0, 6]).buffer);
  assert.equal(rowOf(history, 10).a, 6);
  assert.equal(rowOf(history, 0).a, 5);
  assert.equal(rowOf(history, 3), null);
});
