/** The line between two panes, which can be moved by mouse, touch and keys, and folds the second pane away. */
import { element, listen } from "./common.js";

export const LEAST = 20;
export const MOST = 80;

/** The share of the second pane, in percent, after a key; null if the key is none of the line's. Pure. */
export function shareAfter(key, share) {
  const to = { ArrowLeft: share + 5, ArrowRight: share - 5, Home: MOST, End: LEAST }[key];
  return to === undefined ? null : Math.min(MOST, Math.max(LEAST, to));
}

/** @param main the row that holds the panes; `share` is what the second one has at first */
export function splitLine(main, controls, signal, share = 42) {
  const node = element("div", {
    class: "scaw-suite-line", role: "separator", tabindex: "0", "aria-orientation": "vertical", "aria-controls": controls,
    "aria-label": "Width of the cells", "aria-valuemin": LEAST, "aria-valuemax": MOST, title: "Drag, or use the arrow keys; Enter folds the cells away",
  });
  const set = (percent) => {
    share = percent;
    main.style.setProperty("--scaw-cells", `${percent}%`);
    node.setAttribute("aria-valuenow", String(Math.round(percent)));
    main.dispatchEvent(new Event("resize"));
  };
  listen(node, "keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      main.classList.toggle("scaw-folded");
    } else {
      const to = shareAfter(event.key, share);
      if (to === null) return;
      main.classList.remove("scaw-folded");
      set(to);
    }
    event.preventDefault();
  }, signal);
  listen(node, "pointerdown", (event) => {
    node.setPointerCapture(event.pointerId);
    event.preventDefault();
    node.focus();
  }, signal);
  listen(node, "pointermove", (event) => {
    if (!node.hasPointerCapture(event.pointerId)) return;
    const { right, width } = main.getBoundingClientRect();
    set(Math.min(MOST, Math.max(LEAST, (100 * (right - event.clientX)) / width)));
  }, signal);
  set(share);
  return node;
}
