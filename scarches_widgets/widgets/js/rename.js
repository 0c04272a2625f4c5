/** Rename a gene program in place: Enter keeps the new name, Escape the old one; what is wrong is told at the field. */
import { lineToFill } from "./actions.js";
import { button, element, followMessages, listen } from "./common.js";

/**
 * @param announce says to a screen reader what has happened
 * @returns `begin(host, i, done)`: put a field in place of the element `host`; `done` is called when it is gone again.
 *   `busy()`: whether a field is open
 */
export function renamer(model, signal, announce) {
  let open = null; // of the field now on the page

  function close() {
    open.form.replaceWith(open.host);
    const { done } = open;
    open = null;
    done();
  }

  followMessages(model, (content) => {
    if (content?.op !== "renamed" || content.id !== open?.id) return;
    if (content.problem) return open.refuse(content.problem);
    announce(`Renamed to ${open.input.value.trim()}`, true);
    close();
  }, signal);

  function begin(host, i, done) {
    if (open) close();
    const id = `scaw-rename-${Math.random().toString(36).slice(2, 10)}`;
    const problem = element("span", { class: "scaw-problem", id: `${id}-problem`, role: "alert" });
    const input = element("input", {
      class: "scaw-input", type: "text", maxlength: "200", "aria-label": "New name of the program", "aria-describedby": problem.id, spellcheck: "false",
    });
    const keep = button("Keep", { title: "Enter" });
    const cancel = button("Cancel", { title: "Esc" });
    const form = element("div", { class: "scaw-rename" }, input, keep, cancel, problem);
    input.value = model.get("terms")[i];
    host.replaceWith(form);
    input.focus();
    input.select();
    form.scrollIntoView({ block: "nearest" });
    const submit = () => {
      const name = input.value.trim();
      const terms = model.get("terms");
      if (!name) refuse("A name needs at least one character.");
      else if (name === terms[i]) close();
      else if (terms.includes(name)) refuse("Another program has this name already. Choose another name.");
      else model.send({ op: "rename", id, i, name });
    };
    const line = lineToFill(form, input, problem, { submit, close }, signal);
    const refuse = (text) => {
      line.refuse(text);
      form.scrollIntoView({ block: "nearest" });
    };
    listen(keep, "click", submit, signal);
    listen(cancel, "click", close, signal);
    open = { id, host, form, input, refuse, done };
  }

  return { begin, busy: () => open !== null };
}
