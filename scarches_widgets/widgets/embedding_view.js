import { cellMap } from "./js/cell_map.js";
import { formatCount } from "./js/cells.js";
import { element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge } from "./js/common.js";

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Embedding view");
  const { badge, show: showStatus } = statusBadge();
  badge.hidden = true;
  const color = element("select", { class: "scaw-select" });
  root.append(element("div", { class: "scaw-head scaw-cells-head" }, element("h3", { class: "scaw-title" }, model.get("label")), badge,
    element("span", { class: "scaw-soft" }, `${formatCount(model.get("n_cells"))} cells`), element("label", {}, "Colour by ", color)));
  const map = cellMap(model, root, signal, root);
  root.append(errorNotice(model, signal), map.node);

  function showChoices() {
    const columns = model.get("columns");
    const { key } = model.get("coloring");
    const options = [["", "nothing"], ...columns.map((name) => [`column:${name}`, name])];
    if (key !== null && !columns.includes(key)) options.push([`column:${key}`, `${key} (gene)`]);
    color.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    color.value = key === null ? "" : `column:${key}`;
  }

  follow(model, ["coloring", "columns", "error"], showChoices, signal);
  listen(color, "change", () => {
    model.send({ op: "color", key: color.value === "" ? null : color.value.slice("column:".length) });
  }, signal);
  followKernel(model, (gone) => {
    map.setDetached(gone);
    badge.hidden = !gone;
    color.disabled = gone;
    if (gone) showStatus("detached");
  }, signal);
  showChoices();
  followTheme(root, map.setDark, signal);
  return remove;
}

export default { render };
