import assert from "node:assert/strict";
import { mock, test } from "node:test";

import {
  STATUS_WORDS, followKernel, formatNumber, formatSeconds, isDarkColour, kernelState, wishes,
} from "../../scarches_widgets/widgets/js/common.js";

test("a number is short, and what is no number is a dash", () => {
  const shown = {
    0: "0", 1: "1", 0.5: "0.5", 0.123456789: "0.12346", 3.14159: "3.142", 99.9999: "100", 1234.56: "1,234.6",
    999999: "999,999", 1000000: "1.00e+6", 0.001: "0.001", 0.00012345: "1.23e-4",
  };
  for (const [number, text] of Object.entries(shown)) assert.equal(formatNumber(Number(number)), text);
  assert.equal(formatNumber(-2.5), "-2.5");
  assert.equal(formatNumber(-1e-9), "-1.00e-9");
  for (const none of [null, undefined, NaN]) assert.equal(formatNumber(none), "–");
});

test("seconds are told in the unit that one would say", () => {
  const told = [
    [0, "under 1 s"], [0.9, "under 1 s"], [1, "1 s"], [59.6, "60 s"], [89, "89 s"], [90, "2 min"], [3600, "60 min"],
    [5399, "90 min"], [5400, "1.5 h"], [86400, "24.0 h"],
  ];
  for (const [seconds, text] of told) assert.equal(formatSeconds(seconds), text);
  for (const none of [NaN, Infinity, undefined, null]) assert.equal(formatSeconds(none), "–");
});

test("a colour is dark, light, or says nothing when it is transparent or no colour", () => {
  assert.equal(isDarkColour("rgb(0, 0, 0)"), true);
  assert.equal(isDarkColour("rgb(17, 17, 17)"), true);
  assert.equal(isDarkColour("rgba(30, 30, 30, 0.9)"), true);
  assert.equal(isDarkColour("rgb(255, 255, 255)"), false);
  assert.equal(isDarkColour("rgb(0, 255, 0)"), false); // the eye sees green as bright,
  assert.equal(isDarkColour("rgb(0, 0, 255)"), true); // and blue as dark
  for (const none of ["rgba(0, 0, 0, 0)", "", "none"]) assert.equal(isDarkColour(none), null);
});

test("an answer to an earlier click does not take back a later one, and a wish that nobody answers is given up", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let nGivenUp = 0;
  const wished = wishes(() => { nGivenUp += 1; }, new AbortController().signal, 1000);
  wished.add({ visible: true });
  wished.add({ opacity: 0.5 });
  assert.deepEqual(wished.over({ visible: false, opacity: 1, n: 3 }), { visible: true, opacity: 0.5, n: 3 });
  assert.deepEqual(wished.over({ visible: true, opacity: 1, n: 3 }), { visible: true, opacity: 0.5, n: 3 });
  assert.deepEqual(wished.over({ visible: false, opacity: 1 }), { visible: false, opacity: 0.5 }, "the kernel may change its mind");
  mock.timers.tick(999);
  assert.equal(nGivenUp, 0);
  mock.timers.tick(1);
  assert.equal(nGivenUp, 1);
  assert.deepEqual(wished.over({ visible: false, opacity: 1 }), { visible: false, opacity: 1 });
  mock.timers.reset();
});

test("each status has words of its own", () => {
  const words = Object.values(STATUS_WORDS);
  assert.equal(new Set(words).size, words.length);
  assert.ok(words.every((word) => typeof word === "string" && word.length > 0));
  assert.equal(STATUS_WORDS.detached, "kernel gone");
});

/** A model as anywidget hands it to `render`, with what its front end shows of the kernel. */
function fakeModel({ live = true, has = true, connection = "connected", kernel, manager } = {}) {
  const handlers = new Set();
  const alive = kernel === undefined ? { connectionStatus: connection, hasComm: (id) => has && id === "layout-1" } : kernel;
  return {
    layout: { comm_live: live, model_id: "layout-1" },
    widget_manager: manager === undefined ? { kernel: alive } : manager,
    get(name) { return name === "layout" ? this.layout : undefined; },
    on(name, handler) { if (name === "comm_live_update") handlers.add(handler); },
    off(name, handler) { handlers.delete(handler); },
    trigger() { for (const handler of handlers) handler(); },
    handlers,
  };
}

test("the kernel's state is read from what the front end shows", () => {
  const cases = [
    [{}, "there"],
    [{ live: false }, "gone"],
    [{ has: false }, "gone"],
    [{ kernel: null }, "gone"],
    [{ kernel: { isDisposed: true } }, "gone"],
    [{ connection: "connecting" }, "unreachable"],
    [{ connection: "disconnected" }, "unreachable"],
    [{ kernel: {} }, "there"], // a front end that tells less
    [{ manager: {} }, "there"],
    [{ manager: null }, "there"],
  ];
  for (const [shown, state] of cases) assert.equal(kernelState(fakeModel(shown)), state, JSON.stringify(shown));
  assert.equal(kernelState({ get: () => undefined }), "there");
});

test("a view is told at once of a restart, after a while of a lost connection, and when that is back", () => {
  mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  try {
    const told = [];
    const controller = new AbortController();
    const model = fakeModel();
    followKernel(model, (gone) => told.push(gone), controller.signal);
    mock.timers.tick(5000);
    assert.deepEqual(told, []);

    model.widget_manager.kernel.connectionStatus = "connecting";
    mock.timers.tick(2000);
    assert.deepEqual(told, []); // a short break is nobody's business
    mock.timers.tick(2000);
    assert.deepEqual(told, [true]);
    model.widget_manager.kernel.connectionStatus = "connected";
    mock.timers.tick(1000);
    assert.deepEqual(told, [true, false]);

    model.trigger(); // the event for this model comes before the layout's
    model.layout.comm_live = false;
    mock.timers.tick(1);
    assert.deepEqual(told, [true, false, true]);

    controller.abort();
    model.layout.comm_live = true;
    mock.timers.tick(5000);
    assert.deepEqual(told, [true, false, true]);
    assert.equal(model.handlers.size, 0);
  } finally {
    mock.timers.reset();
  }
});
