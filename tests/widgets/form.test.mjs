import assert from "node:assert/strict";
import test from "node:test";
import { barsInWords, percent, rectangles } from "../../scarches_widgets/widgets/js/bars.js";
import {
  advancedWords, byGroup, bySection, countChanged, defaultWords, entryOf, placeOf, UNREADABLE, withErrors,
} from "../../scarches_widgets/widgets/js/form.js";
import { byFit } from "../../scarches_widgets/widgets/training_panel.js";
import { progressShare, progressWords } from "../../scarches_widgets/widgets/js/panel.js";

const whole = { name: "n_latent", section: "SCVI", kind: "whole", default: 10 };
const choice = {
  name: "batch_key", section: "Data", kind: "choice", default: null,
  choices: [{ value: null, label: "none", group: "" }, { value: "n", label: "n, numeric", group: "Other columns" }, { value: "b", label: "b", group: "" }],
};

test("an entry is what the control holds, as a number where a number is meant", () => {
  assert.equal(entryOf(whole, { value: "12" }), 12);
  assert.equal(entryOf(whole, { value: "1e-3" }), 0.001);
  assert.equal(entryOf(whole, { value: " " }), null);
  assert.equal(entryOf(whole, { value: "", badInput: true }), UNREADABLE);
  assert.equal(entryOf({ kind: "text" }, { value: "12" }), "12");
  assert.equal(entryOf({ kind: "text" }, { value: "" }), "");
  assert.equal(entryOf({ kind: "text", optional: true }, { value: " " }), null);
  assert.equal(entryOf({ kind: "widths" }, { value: "256, 64" }), "256, 64");
  assert.equal(entryOf({ kind: "widths" }, { value: "" }), null);
  assert.equal(entryOf({ kind: "switch" }, { checked: true, value: "on" }), true);
  assert.equal(entryOf(choice, { selectedIndex: 2 }), "b");
  assert.equal(entryOf(choice, { selectedIndex: 0 }), null);
  assert.equal(entryOf(choice, { selectedIndex: -1 }), null);
});

test("a default is said as the form would show it", () => {
  assert.equal(defaultWords(whole), "10");
  assert.equal(defaultWords({ ...whole, default: null }), "automatic");
  assert.equal(defaultWords({ kind: "switch", default: false }), "off");
  assert.equal(defaultWords(choice), "none");
});

test("none is a choice, and a text that only looks like one is not", () => {
  assert.equal(placeOf(choice, null), 0);
  assert.equal(placeOf(choice, "b"), 2);
  assert.equal(placeOf(choice, "none"), -1);
});

test("fields and choices keep their order under their headings", () => {
  assert.deepEqual(bySection([choice, whole, { ...choice, name: "layer" }]).map(([heading, fields]) => [heading, fields.length]), [["Data", 2], ["SCVI", 1]]);
  assert.deepEqual(byGroup(choice.choices).map(([group, lines]) => [group, lines.map(([place]) => place)]), [["", [0, 2]], ["Other columns", [1]]]);
});

test("the line of the second options counts those that were changed", () => {
  assert.equal(countChanged([whole, choice], { n_latent: 10, batch_key: "b" }), 1);
  assert.equal(advancedWords([whole, choice], { n_latent: 10, batch_key: null }), "Advanced (2)");
  assert.equal(advancedWords([whole, choice], { n_latent: 9, batch_key: "b" }), "Advanced (2) · 2 changed");
});

test("only errors keep a form from starting, in the form's order", () => {
  const remarks = { n_latent: [{ level: "error" }], batch_key: [{ level: "warning" }, { level: "error" }], seed: [{ level: "note" }] };
  assert.deepEqual(withErrors([choice, whole, { name: "seed" }], remarks), ["batch_key", "n_latent"]);
});

test("progress is told in words and as a share, as far as it is known", () => {
  const now = { stage: "", n_epochs: 3, max_epochs: 10, step: 5, steps_per_epoch: 10, loss: 612.34, held_out: 620, eta: 42, reason: "" };
  assert.equal(progressWords(now, "running"), "epoch 3 of 10 · loss 612.3, held out 620 nats per cell · 42 s to go");
  assert.equal(progressShare(now), 0.35);
  assert.equal(progressWords({ ...now, loss: null }, "paused"), "epoch 3 of 10");
  assert.equal(progressWords({ ...now, held_out: null, reason: "stopped" }, "stopped"), "epoch 3 of 10 · loss 612.3 nats per cell · stopped");
  assert.equal(progressWords({ stage: "Preparing the model." }, "running"), "Preparing the model.");
  assert.equal(progressShare({ stage: "Preparing the model.", max_epochs: 10, n_epochs: 1 }), null);
  assert.equal(progressWords({ stage: "" }, "ready"), "");
  assert.equal(progressShare({ ...now, n_epochs: 10, step: 10 }), 1);
});

test("a share in per cent does not claim nothing or all where there is something", () => {
  assert.deepEqual([0, 0.0001, 0.034, 0.5, 0.9999, 1].map(percent), ["0 %", "<0.1 %", "3.4 %", "50 %", ">99.9 %", "100 %"]);
});

test("bars stand on one floor, the highest fills the picture, none is negative", () => {
  const boxes = rectangles([0, 5, 10]);
  assert.equal(boxes[0].height, 0);
  assert.equal(boxes[2].height, 2 * boxes[1].height);
  assert.equal(new Set(boxes.map((box) => box.y + box.height)).size, 1);
  assert.ok(rectangles([0, 0]).every((box) => box.height === 0 && Number.isFinite(box.y)));
});

test("a picture of uncertainties is also a sentence", () => {
  const counts = [50, 0, 0, 0, 30, 0, 0, 0, 0, 20];
  assert.equal(barsInWords(counts, 1), "Uncertainties of 100 cells: 50 % are below 0.2, 80 % below 0.5.");
  assert.match(barsInWords(counts, 0.3), /; the threshold is 0\.3\.$/);
  assert.match(barsInWords([0, 0], 1), /^Uncertainties of 0 cells/);
});

test("models stand under headings as soon as it is known which of them the cells fit", () => {
  const names = ["EXPIMAP", "SCVI", "TOTALVI"];
  assert.deepEqual(byFit(names, []), [["", names]]);
  const fits = [["SCVI.", "ok"], ["EXPIMAP.", "lacks"], ["TOTALVI.", "lacks"]].map(([text, level]) => ({ text, level }));
  assert.deepEqual(byFit(names, fits), [["For these cells", ["SCVI"]], ["The cells lack something", ["EXPIMAP", "TOTALVI"]]]);
});
