import {
  announcer, button, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge,
} from "../../scarches_widgets/widgets/js/common.js";

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Toy");
  const { badge, show: showStatus } = statusBadge();
  const names = element("ul", { class: "toy-names", "aria-label": "Names" });
  const count = element("output", { class: "toy-count" });
  const more = button("One more", { class: "scaw-button toy-more" });
  const add = button("Add a name", { class: "scaw-button toy-add" });
  const fail = button("Break", { class: "scaw-button toy-break" });
  root.append(badge, names, count, more, add, fail, errorNotice(model, signal));
  const say = announcer(root, signal);

  const showNames = () => names.replaceChildren(...model.get("names").map((name) => element("li", {}, name)));
  const showCount = () => { count.textContent = String(model.get("count")); say(`Counted to ${model.get("count")}`); };
  follow(model, ["names"], showNames, signal);
  follow(model, ["count"], showCount, signal);
  listen(more, "click", () => { model.set("count", model.get("count") + 1); model.save_changes(); }, signal);
  listen(add, "click", () => model.send({ op: "add", name: "<b>added</b>" }), signal);
  listen(fail, "click", () => model.send({ op: "break" }), signal);

  let gone = false;
  const show = () => {
    showStatus(gone ? "detached" : model.get("status"));
    for (const control of [more, add, fail]) control.disabled = gone;
  };
  follow(model, ["status"], show, signal);
  followKernel(model, (lost) => { gone = lost; show(); }, signal);
  followTheme(root, (dark) => { root.dataset.theme = dark ? "dark" : "light"; }, signal);
  showNames();
  showCount();
  show();
  return remove;
}

export default { render };
