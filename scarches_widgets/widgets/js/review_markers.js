/** How cells of a predicted type express its marker genes, beside all other types: area is the share, shade the mean. */
import { breakable, element, follow, formatNumber } from "./common.js";
import { dotRowName, dotSize, shades } from "./review.js";

const LARGEST = 20; // pixels

const dotOf = (share, shade) => {
  const size = dotSize(share, LARGEST);
  return element("span", { class: "scaw-dot", "aria-hidden": "true", style: `width:${size}px;height:${size}px;--scaw-shade:${Math.round(100 * shade)}%` });
};

function tableOf(dots, unknown) {
  const shade = shades(dots.rows);
  const head = element("tr", {}, element("th", { scope: "col", class: "scaw-left" }, "Cells"), element("th", { scope: "col" }, "n"),
    ...dots.genes.map((gene) => element("th", { scope: "col", class: "scaw-gene" }, element("span", {}, gene))));
  const rows = dots.rows.map((row, i) => {
    const name = dotRowName(row, unknown);
    return element("tr", { "data-kind": row.kind },
      element("th", { scope: "row" }, ...breakable(name)), element("td", {}, row.kind === "cell" ? "" : row.n.toLocaleString("en")),
      ...dots.genes.map((gene, j) => {
        const words = row.kind === "cell" ? formatNumber(row.mean[j]) : `mean ${formatNumber(row.mean[j])}, in ${Math.round(100 * row.share[j])} % of the cells`;
        return element("td", { class: "scaw-dot-cell", title: `${gene}, ${name}: ${words}` }, dotOf(row.share[j], shade[i][j]), element("span", { class: "scaw-quiet" }, words));
      }));
  });
  return element("table", { class: "scaw-program-table scaw-dots" }, element("caption", { class: "scaw-quiet" }, `Marker genes of ${dots.label}`),
    element("thead", {}, head), element("tbody", {}, ...rows));
}

export function reviewMarkers(model, signal, retry) {
  const host = element("div");
  const problem = element("p", { class: "scaw-problem", role: "status" });
  const again = element("div", { class: "scaw-row", hidden: true }, problem, retry.node);
  const node = element("div", {}, host, again);

  function show() {
    const dots = model.get("dots");
    const { label } = model.get("opened");
    host.setAttribute("aria-busy", String(label !== undefined && dots.label !== label));
    again.hidden = !dots.problem;
    problem.textContent = dots.problem ? `The marker genes could not be read: ${dots.problem}` : "";
    if (dots.problem || label === undefined) host.replaceChildren();
    else if (dots.label !== label) {
      if (!host.childElementCount) host.append(element("p", { class: "scaw-soft" }, "Reading the genes …"));
    } else if (!dots.genes.length) host.replaceChildren(element("p", { class: "scaw-soft" }, dots.note));
    else {
      const legend = element("p", { class: "scaw-hint scaw-dot-legend" }, "Share of cells: ",
        ...[0.25, 0.5, 1].flatMap((share) => [dotOf(share, 0.6), ` ${100 * share} % `]), " · shade: mean, ",
        element("span", { class: "scaw-dot-scale", "aria-hidden": "true" }), ` 0 to the gene’s largest here (${dots.unit})`);
      host.replaceChildren(...[dots.note ? element("p", { class: "scaw-hint" }, dots.note) : null,
        element("div", { class: "scaw-dots-host", role: "region", tabindex: "0", "aria-label": `Marker genes of ${label}` }, tableOf(dots, model.get("unknown"))),
        legend, dots.n_more ? element("p", { class: "scaw-hint" }, `And ${dots.n_more} more types.`) : null].filter(Boolean));
    }
  }
  follow(model, ["dots", "opened"], show, signal);
  show();
  return { node, setEnabled(enabled) { retry.enable(enabled); } };
}
