import assert from "node:assert/strict";
import { test } from "node:test";
import { LEAST, MOST, shareAfter } from "../../scarches_widgets/widgets/js/suite_split.js";
import { nextTab, stateOf } from "../../scarches_widgets/widgets/js/suite_steps.js";

test("arrows go round the steps, Home and End to the ends, other keys nowhere", () => {
  assert.deepEqual(["ArrowRight", "ArrowLeft", "Home", "End", "a"].map((key) => nextTab(key, 0, 8)), [1, 7, 0, 7, null]);
  assert.equal(nextTab("ArrowRight", 7, 8), 0);
});

test("a step is said to be done, locked, or neither", () => {
  assert.equal(stateOf({ done: true, locked: "" }), "done");
  assert.equal(stateOf({ done: true, locked: "why" }), "done, locked");
  assert.equal(stateOf({ done: false, locked: "" }), "");
});

test("the line between the panes moves with the arrows, and not beyond its ends", () => {
  assert.equal(shareAfter("ArrowLeft", 42), 47);
  assert.equal(shareAfter("ArrowRight", LEAST + 2), LEAST);
  assert.equal(shareAfter("Home", 42), MOST);
  assert.equal(shareAfter("End", 42), LEAST);
  assert.equal(shareAfter("Tab", 42), null);
});
