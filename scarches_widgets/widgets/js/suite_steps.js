/** The row of a suite's steps, as tabs: arrows move, Enter opens. A locked step opens too, and says why it is locked. */
import { element, follow, listen } from "./common.js";

/** Where a key leads from tab `i` of `n`, or null. Pure, so that node can test it. */
export function nextTab(key, i, n) {
  const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: n - 1 }[key];
  return to === undefined ? null : (to + n) % n;
}

/** What a screen reader says of a step beside its title. */
export function stateOf(step) {
  return [step.done ? "done" : "", step.locked ? "locked" : ""].filter(Boolean).join(", ");
}

/**
 * @param open called with the key of a step that was chosen
 * @returns the list of tabs, and `select(key)`
 */
export function stepTabs(model, prefix, open, signal) {
  const node = element("div", { class: "scaw-steps", role: "tablist", "aria-label": "Steps" });
  let chosen = model.get("step");

  const tabs = () => [...node.querySelectorAll("[role=tab]")];

  function show() {
    const steps = model.get("steps");
    const focused = tabs().indexOf(node.getRootNode().activeElement);
    node.replaceChildren(...steps.map((step, i) => {
      const state = stateOf(step);
      const selected = step.key === chosen;
      return element("button", {
        type: "button", role: "tab", id: `${prefix}-tab-${step.key}`, "aria-controls": `${prefix}-panel-${step.key}`,
        "aria-selected": String(selected), tabindex: selected ? "0" : "-1", title: step.locked || null, "data-step": step.key,
        class: `scaw-step-tab${step.done ? " scaw-done" : ""}${step.locked ? " scaw-locked" : ""}`,
      }, element("span", { class: "scaw-step-number", "aria-hidden": "true" }, step.done ? "✓" : String(i + 1)), step.title,
      state ? element("span", { class: "scaw-quiet" }, `, ${state}`) : null);
    }));
    if (focused >= 0) tabs()[focused]?.focus();
  }

  listen(node, "click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) open(tab.dataset.step);
  }, signal);
  listen(node, "keydown", (event) => {
    const all = tabs();
    const to = nextTab(event.key, all.indexOf(event.target.closest("[role=tab]")), all.length);
    if (to === null) return;
    event.preventDefault();
    all[to].focus();
  }, signal);
  follow(model, ["steps"], show, signal);
  show();
  return {
    node,
    select(key) {
      chosen = key;
      show();
    },
  };
}
