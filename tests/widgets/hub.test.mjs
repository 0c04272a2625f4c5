// The words on cards of models, and why a step to share one cannot be taken yet.
import assert from "node:assert/strict";
import test from "node:test";

import {
  authorsOf, bytesWords, fetchWords, fitBadge, matches, publishMissing, uploadMissing, workWords,
} from "../../scarches_widgets/widgets/js/hub.js";

test("a size is told in the unit that one would say", () => {
  const told = [[0, "0 bytes"], [1, "1 byte"], [940, "940 bytes"], [1000, "1.0 kB"], [12_345_678, "12.3 MB"], [2.5e9, "2.5 GB"]];
  for (const [size, words] of told) assert.equal(bytesWords(size), words);
});

test("a download says how far it is, how fast, and how long it still takes", () => {
  assert.equal(workWords({}), "");
  assert.equal(workWords({ stage: "Loading an atlas", done: 0, total: 0 }), "Loading an atlas …");
  const half = { stage: "Downloading a.zip", done: 5e6, total: 1e7 };
  assert.equal(workWords(half), "Downloading a.zip: 5.0 MB of 10.0 MB, 50 %");
  assert.equal(workWords({ ...half, rate: 5e5 }), "Downloading a.zip: 5.0 MB of 10.0 MB, 50 % · 500.0 kB a second · 10 s to go");
  assert.ok(!workWords({ ...half, done: 1e7, rate: 5e5 }).includes("to go"));
});

test("a model is found by all words of its card, in any order and case", () => {
  const card = { title: "Lung atlas", text: "of COPD donors", folder: "lung-1", facts: ["SCANVI", "2,000 genes"], kind: "ours" };
  for (const wanted of ["", "lung", "scanvi LUNG", "donors copd"]) assert.ok(matches(card, wanted), wanted);
  for (const wanted of ["heart", "lung heart"]) assert.ok(!matches(card, wanted), wanted);
});

test("authors stand in lines or between semicolons", () => {
  assert.deepEqual(authorsOf(" Last, First; Other, An\n\n Third, One ;"), ["Last, First", "Other, An", "Third, One"]);
  assert.deepEqual(authorsOf(" \n;"), []);
});

test("the badge says in words whether cells fit, or why that is not known", () => {
  const card = (fit, facts = ["SCVI"]) => ({ where: "local", fit, facts, problem: "" });
  assert.equal(fitBadge(card(null), false), null);
  assert.equal(fitBadge({ ...card(null, []), problem: "It is damaged." }, true), null);
  assert.equal(fitBadge({ ...card(null, []), where: "remote", files: [] }, true), null);
  assert.equal(fitBadge(card({ verdict: "fits", overlap: 0.996, noun: "gene" }), true).words, "fits your cells, 99 % of its genes");
  assert.equal(fitBadge(card({ verdict: "partly", overlap: 0.7, noun: "feature" }), true).words, "fits partly, 70 % of its features");
  assert.equal(fitBadge(card({ verdict: "unfit", overlap: 0 }), true).kind, "unfit");
  assert.equal(fitBadge(card("checking"), true).words, "comparing your cells");
  assert.equal(fitBadge(card(null), true).words, "not compared yet");
  assert.equal(fitBadge(card(null, []), true).words, "no card: compared when loaded");
  assert.equal(fitBadge({ ...card(null, []), where: "remote", files: [{}] }, true).words, "no card to compare with");
});

test("the button of a file says what a click would do", () => {
  assert.equal(fetchWords({ size: 2e6, begun: 0, taken: false }), "Download 2.0 MB");
  assert.equal(fetchWords({ size: 2e6, begun: 5e5, taken: false }), "Go on with the download (500.0 kB of 2.0 MB are here)");
  assert.equal(fetchWords({ size: 2e6, begun: 0, taken: true }), "Download 2.0 MB and replace the folder");
});

test("what is missing for an upload or a publication is told, one thing at a time", () => {
  const ready = { key: "local:a", title: "A", authors: ["L, F"], hasToken: true, target: { on_binder: false }, busy: false, detached: false };
  assert.equal(uploadMissing(ready), "");
  const wrong = {
    detached: [true, /kernel/], target: [{ on_binder: true }, /Binder/], key: ["", /Choose/], title: [" ", /title/], authors: [[], /author/],
    hasToken: [false, /token/], busy: [true, /under way/],
  };
  for (const [name, [value, words]] of Object.entries(wrong)) assert.match(uploadMissing({ ...ready, [name]: value }), words);
  const draft = { state: "filled", title: "A" };
  const done = { ...ready, draft };
  assert.equal(publishMissing(done), "");
  assert.match(publishMissing({ ...done, draft: { state: "begun", title: "A" } }), /no draft/);
  assert.match(publishMissing({ ...done, title: "" }), /title/);
  for (const name of ["detached", "target", "hasToken", "busy"]) assert.match(publishMissing({ ...done, [name]: wrong[name][0] }), wrong[name][1]);
});
