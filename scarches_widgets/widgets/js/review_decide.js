/** Buttons that decide on some cells: accept, relabel, reject, comment; the two that need words open a line for them. */
import { actionButton, lineToFill } from "./actions.js";
import { button, element, followMessages, listen } from "./common.js";
import { labelMeant } from "./review.js";

const ACTIONS = [["accept", "Accept", "A"], ["relabel", "Relabel", "R"], ["reject", "Reject", "X"], ["comment", "Comment", "C"]];
const DONE = { accept: "accepted", relabel: "relabelled", reject: "rejected", comment: "commented on" };

/** Which of the decisions a key asks for; null for other keys. */
export function decisionOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  return ACTIONS.find(([, , key]) => key.toLowerCase() === event.key.toLowerCase())?.[0] ?? null;
}

/**
 * @param send sends a command to the kernel, after whatever waits to be sent
 * @param cellsOf returns which cells are meant now, as the command says it, or null if none
 * @param about what the buttons are about, for their names: "this cell"
 * @param back is called when a decision is made or given up, to take the focus
 * @returns the bar; `act(name)`, what a key does, on those or on other cells; `show()`; `setEnabled`
 */
export function decisionBar(model, signal, { send, cellsOf, about, announce, back }) {
  const name = `scaw-decide-${Math.random().toString(36).slice(2, 10)}`;
  const buttons = ACTIONS.map(([action, words, key]) => {
    const one = actionButton(words, () => act(action), signal, { title: key, "aria-label": `${words} ${about}`, "data-action": action });
    return one;
  });
  const host = element("div", { hidden: true });
  const problem = element("span", { class: "scaw-problem", role: "alert" });
  const row = element("div", { class: "scaw-decide" }, ...buttons.map(({ node }) => node));
  const node = element("div", {}, row, host, problem);
  let enabled = true;
  let asked = null; // the decision that the kernel has not answered yet
  let open = null; // the line that is open
  let returnTo = back;

  function decide(action, cells, facts = {}) {
    if (!enabled) return;
    problem.textContent = "";
    asked = { id: `${name}-${Math.random().toString(36).slice(2, 8)}`, action };
    send({ op: "decide", id: asked.id, action, ...cells, ...facts });
  }

  function close(focus = true) {
    open = null;
    host.hidden = true;
    host.replaceChildren();
    if (focus) returnTo();
  }

  function showLine(action, cells) {
    const isLabel = action === "relabel";
    const list = element("datalist", { id: `${name}-labels` }, ...model.get("labels").map((label) => element("option", { value: label })));
    const says = element("span", { class: "scaw-problem", id: `${name}-says`, role: "alert" });
    const input = element("input", {
      class: "scaw-input", type: "text", maxlength: isLabel ? "200" : "2000", list: isLabel ? list.id : null, spellcheck: "false",
      "aria-label": isLabel ? `New label of ${about}` : `Comment on ${about}`, placeholder: isLabel ? "label" : "comment", "aria-describedby": says.id,
    });
    const isNew = element("input", { type: "checkbox" });
    const asNew = element("label", { class: "scaw-check", hidden: true }, isNew, "it is a new label");
    const keep = button(isLabel ? "Relabel" : "Comment", { class: "scaw-button scaw-primary", title: "Enter" });
    const cancel = button("Cancel", { title: "Esc" });
    const form = element("div", { class: "scaw-decide-line" }, input, ...(isLabel ? [list, asNew] : []), keep, cancel, says);
    host.replaceChildren(form);
    host.hidden = false;
    open = { says };
    const submit = () => {
      const text = input.value.trim();
      if (!text) line.refuse(isLabel ? "Which label?" : "Say something.");
      else if (!isLabel) decide("comment", cells, { comment: text });
      else {
        const known = labelMeant(text, model.get("labels"));
        if (known === null && !isNew.checked) {
          asNew.hidden = false;
          line.refuse(`“${text}” is not yet a label here. Tick “it is a new label” if you mean it.`, document.activeElement !== isNew);
        } else decide("relabel", cells, { label: known ?? text, new: known === null });
      }
    };
    const line = lineToFill(form, input, says, { submit, close: () => close() }, signal);
    listen(keep, "click", submit, signal);
    listen(cancel, "click", () => close(), signal);
    input.focus();
    host.scrollIntoView({ block: "nearest" });
  }

  function act(action, cells = cellsOf(), goBack = back) {
    if (!enabled || !cells) return;
    returnTo = goBack;
    problem.textContent = "";
    if (action === "relabel" || action === "comment") showLine(action, cells);
    else {
      close(false);
      decide(action, cells);
    }
  }

  followMessages(model, (content) => {
    if (content?.op !== "decided" || content.id !== asked?.id) return;
    const { action } = asked;
    asked = null;
    if (content.problem) {
      (open?.says ?? problem).textContent = content.problem;
      return;
    }
    announce(`${content.n.toLocaleString("en")} ${content.n === 1 ? "cell" : "cells"} ${DONE[action]}.`, true);
    if (open) close();
  }, signal);

  function show() {
    const can = enabled && Boolean(cellsOf());
    for (const one of buttons) one.enable(can);
    if (!can && open) close(false);
  }

  return { node, act, show, setEnabled(wanted) { enabled = wanted; show(); } };
}
