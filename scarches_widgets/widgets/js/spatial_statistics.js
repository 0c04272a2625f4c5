/** squidpy's views of the tissue: chosen by name, computed in the kernel, shown with the plain code. */
import { actionButton } from "./actions.js";
import { element, follow, followKernel, listen } from "./common.js";

const filled = (select, pairs, chosen) => {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
};

export function statisticsOf(model, signal) {
  const [what, of, column] = ["View", "Of", "By"].map(() => element("select", { class: "scaw-select" }));
  const labelled = (label, control) => element("label", { class: "scaw-sight" }, label, control);
  const byColumn = labelled("by ", column);
  const words = element("p", { class: "scaw-hint", role: "status" });
  const picture = element("div", { class: "scaw-statistic" });
  const show = actionButton("Show", () => model.send({
    op: "statistic", what: what.value, of: of.value, column: byColumn.hidden ? null : column.value.slice(1) || null,
  }), signal);
  const node = element("details", { class: "scaw-statistics" }, element("summary", {}, "Tissue statistics"),
    element("div", { class: "scaw-row" }, labelled("View ", what), labelled("of ", of), byColumn, show.node), words, picture);
  let url = null;
  let gone = false;

  function showForm() {
    const { names, of_genes: ofGenes, groups } = model.get("statistics");
    if (!what.options.length) filled(what, Object.entries(names));
    filled(of, Object.keys(groups).map((name) => [name, name === "query" ? "query, where it was placed" : name]), of.value);
    filled(column, (groups[of.value] ?? []).map((name) => [`=${name}`, name]), column.value);
    byColumn.hidden = what.value === ofGenes;
  }

  function showResult() {
    const { stage, problem, png, title, note, code } = model.get("statistic");
    show.enable(!stage && !gone);
    words.textContent = stage || problem || "";
    words.classList.toggle("scaw-problem", Boolean(problem) && !stage);
    if (url) URL.revokeObjectURL(url);
    url = png ? URL.createObjectURL(new Blob([png], { type: "image/png" })) : null;
    picture.replaceChildren(...(url ? [element("img", { src: url, alt: title }), note ? element("p", { class: "scaw-hint" }, note) : null,
      element("pre", { class: "scaw-code", tabindex: "0", "aria-label": "squidpy code" }, code)].filter(Boolean) : []));
  }

  listen(what, "change", showForm, signal);
  listen(of, "change", showForm, signal);
  follow(model, ["statistics"], showForm, signal);
  follow(model, ["statistic"], showResult, signal);
  followKernel(model, (isGone) => { gone = isGone; showResult(); }, signal);
  signal.addEventListener("abort", () => { if (url) URL.revokeObjectURL(url); });
  showForm();
  showResult();
  return node;
}
