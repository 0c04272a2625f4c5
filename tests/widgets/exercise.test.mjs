/** Pure functions behind an exercise: code in texts, the ladder's next rung, how far it is, and notes in the notebook. */
import assert from "node:assert/strict";
import test from "node:test";

import { outcomeWords, parted, rungWords } from "../../scarches_widgets/widgets/js/exercise.js";
import { keptIn } from "../../scarches_widgets/widgets/js/notebook.js";

const LADDER = { hints: [], n_hints: 2, solution: null, has_solution: true };

test("what stands between backticks is code", () => {
  assert.deepEqual(parted("Set `n_latent` now"), [
    { text: "Set ", code: false }, { text: "n_latent", code: true }, { text: " now", code: false },
  ]);
  assert.deepEqual(parted(""), []);
});

test("hints come before the solution, and after it there is no rung", () => {
  assert.equal(rungWords(LADDER), "Hint 1 of 2");
  assert.equal(rungWords({ ...LADDER, hints: ["a"] }), "Hint 2 of 2");
  assert.equal(rungWords({ ...LADDER, hints: ["a", "b"] }), "Show the solution");
  assert.equal(rungWords({ ...LADDER, hints: ["a", "b"], solution: "x = 1" }), "");
  assert.equal(rungWords({ ...LADDER, hints: ["a", "b"], has_solution: false }), "");
});

test("how far it is, in words", () => {
  const checks = [{ met: true }, { met: false }];
  assert.equal(outcomeWords([{ met: false }], { attempts: 0, passed: null }, "ready"), "");
  assert.equal(outcomeWords(checks, { attempts: 1, passed: null }, "ready"), "1 of 2 checks are met.");
  assert.equal(outcomeWords([{ met: true }, { met: true }], { attempts: 1, passed: "2026-11-23T10:00:00" }, "done"), "All 2 checks are met.");
  assert.match(outcomeWords([{ met: false }], { attempts: 0, passed: "2026-11-23T10:00:00" }, "ready"), /^Passed on 2026-11-23\. Run/);
});

test("notes are kept beside those of others, written only when they change, and no notebook is no fault", () => {
  const metadata = { scarches_widgets: { exercises: { other: { attempts: 3 } } } };
  let written = 0;
  const notebook = {
    getMetadata: (name) => metadata[name],
    setMetadata: (name, value) => { metadata[name] = value; written += 1; },
  };
  const kept = keptIn({ widget_manager: { context: { model: notebook } } }, "exercises", "mine");
  assert.equal(kept.read(), null);
  kept.write({ attempts: 1 });
  kept.write({ attempts: 1 });
  assert.equal(written, 1);
  assert.deepEqual(kept.read(), { attempts: 1 });
  assert.deepEqual(metadata.scarches_widgets.exercises.other, { attempts: 3 });
  const nowhere = keptIn({}, "exercises", "mine");
  nowhere.write({ attempts: 1 });
  assert.equal(nowhere.read(), null);
});
