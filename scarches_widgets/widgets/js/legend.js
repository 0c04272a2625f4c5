/** The legend of a view of cells, which is also its selection by keyboard: a list of groups, or a scale of numbers. */
import { breakable, button, element, formatNumber, listen } from "./common.js";
import { formatCount, nextOption, nextWithLetter, rounded } from "./cells.js";

/**
 * @param choose called with `{ code }` or `{ low, high }`, and the event whose keys say how to select
 * @returns the legend's element and `show(coloring, counts)`; coloring has the colours of the theme
 */
export function cellLegend(choose, signal) {
  const id = `scaw-legend-${Math.random().toString(36).slice(2, 10)}`; // each view has a copy of this module: no counter
  const title = element("p", { class: "scaw-legend-title", id: `${id}-title` });
  const body = element("div");
  const note = element("p", { class: "scaw-hint", style: "margin:4px 0 0" });
  const host = element("div", { class: "scaw-legend" }, title, body, note);
  let shown = null; // the coloring whose elements are in the body
  let update = () => {};
  let onKey = () => {};
  let onClick = () => {};
  listen(body, "keydown", (event) => onKey(event), signal);
  listen(body, "click", (event) => onClick(event), signal);

  function showGroups(coloring) {
    const list = element("ul", {
      class: "scaw-options", role: "listbox", tabindex: "0", "aria-multiselectable": "true", "aria-labelledby": `${id}-title`,
    });
    const options = coloring.names.map((name, i) => element("li",
      { class: "scaw-option", role: "option", id: `${id}-${i}`, title: name },
      element("span", { class: "scaw-swatch", "aria-hidden": "true" }),
      element("span", { class: "scaw-option-name" }, name),
      element("span", { class: "scaw-option-count" })));
    list.append(...options);
    body.replaceChildren(list);
    let current = 0;

    function moveTo(i) {
      delete options[current]?.dataset.current;
      current = i;
      options[current].dataset.current = "";
      list.setAttribute("aria-activedescendant", options[current].id);
      const top = options[current].offsetTop - list.offsetTop;
      const bottom = top + options[current].offsetHeight;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    }
    if (options.length) moveTo(0);

    onKey = (event) => {
      if (event.ctrlKey || event.metaKey || !options.length) return;
      const target = nextOption(current, event.key, options.length);
      if (target !== null) moveTo(target);
      else if (event.key === " " || event.key === "Enter") choose({ code: current }, event);
      else if (event.key.length === 1 && !event.altKey) {
        const found = nextWithLetter(coloring.names, current, event.key);
        if (found !== null) moveTo(found);
      } else return;
      event.preventDefault();
    };
    onClick = (event) => {
      const option = event.target.closest(".scaw-option");
      if (!option) return;
      moveTo(options.indexOf(option));
      choose({ code: current }, event);
    };

    return (colours, counts) => options.forEach((option, i) => {
      const [swatch, , count] = option.children;
      const [all, selected] = [counts.all[i], counts.selected[i]];
      swatch.style.background = colours[i];
      count.replaceChildren(...(selected ? [element("strong", {}, formatCount(selected)), " of "] : []), formatCount(all));
      option.setAttribute("aria-selected", String(all > 0 && selected === all));
      option.setAttribute("aria-label", `${coloring.names[i]}: ${formatCount(all)} cells, ${formatCount(selected)} selected`);
    });
  }

  function showScale(coloring) {
    const ends = [coloring.low, coloring.high].map(formatNumber);
    const bar = element("div", { class: "scaw-scale", role: "img", "aria-label": `Colours from ${ends[0]} to ${ends[1]}` });
    const marks = element("div", { class: "scaw-scale-ends scaw-hint" }, ...ends.map((end) => element("span", {}, end)));
    const number = (label, value) =>
      element("input", { class: "scaw-input", type: "number", step: "any", "aria-label": label, value: String(value) });
    const low = number("From", rounded(coloring.low, Math.floor));
    const high = number("To", rounded(coloring.high, Math.ceil));
    const select = button("Select");
    const read = (input, empty) => (input.value === "" ? empty : Number(input.value));
    const go = (event) => choose({ low: read(low, -Infinity), high: read(high, Infinity) }, event);
    onClick = (event) => { if (event.target === select) go(event); };
    onKey = (event) => { if (event.key === "Enter" && event.target !== select) go(event); };
    const range = element("div", { class: "scaw-row", role: "group", "aria-label": "Select cells by value" },
      element("span", { class: "scaw-hint" }, "from"), low, element("span", { class: "scaw-hint" }, "to"), high, select);
    body.replaceChildren(bar, marks, range);
    return (colours) => { bar.style.background = `linear-gradient(to right, ${everyNth(colours, 16).join(", ")})`; };
  }

  return {
    host,
    show(coloring, colours, counts) {
      if (coloring !== shown) {
        shown = coloring;
        title.replaceChildren(...breakable(coloring.label));
        note.textContent = coloring.note;
        body.replaceChildren();
        onKey = () => {};
        onClick = () => {};
        if (coloring.kind === "categories") update = showGroups(coloring);
        else if (coloring.kind === "numbers") update = showScale(coloring);
        else {
          update = () => {};
          note.textContent = "All cells look alike. Choose a column to colour them by.";
        }
      }
      update(colours, counts);
    },
  };
}

const everyNth = (values, n) => Array.from({ length: n }, (_, i) => values[Math.round((i * (values.length - 1)) / (n - 1))]);
