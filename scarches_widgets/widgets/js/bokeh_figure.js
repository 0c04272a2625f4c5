/** A Bokeh figure in a view: embedded from its JSON, themed by tokens, cleaned up with the view. */
import { bokehReady } from "./bokeh_page.js";

const THEMES = {
  light: { ink: "#2a2a30", soft: "#5a5a64", line: "#e1e1e8", paper: "#ffffff" },
  dark: { ink: "#ececf1", soft: "#b4b4c0", line: "#3d3d47", paper: "#1b1b20" },
};

/** Okabe and Ito's colours as they read on dark paper; others stay. */
const ON_DARK = {
  "#0072B2": "#5AB4F0", "#D55E00": "#FF9552", "#009E73": "#3FCFA4", "#CC79A7": "#EBA5CB", "#E69F00": "#F5C04A",
  "#56B4E9": "#9AD7FF",
};

export function readable(colour, dark) {
  return dark ? ON_DARK[colour] ?? colour : colour;
}

/** Set the colours of a plot's parts, on the paper of the element that holds it; glyphs keep theirs. */
export function paint(document, dark, host) {
  const paper = host && getComputedStyle(host.closest(".scaw-root")).backgroundColor;
  const theme = { ...THEMES[dark ? "dark" : "light"], ...(paper ? { paper } : {}) };
  for (const model of document.all_models) {
    switch (model.type) {
      case "Figure":
        model.setv({ background_fill_color: theme.paper, border_fill_color: theme.paper, outline_line_color: theme.line });
        if ("border_line_color" in model.properties) model.setv({ border_line_color: null }); // newer Bokeh's frame
        break;
      case "Title":
        model.setv({ text_color: theme.ink });
        break;
      case "Legend":
        model.setv({ label_text_color: theme.ink, background_fill_color: theme.paper, border_line_color: theme.line });
        break;
      case "Grid":
        model.setv({ grid_line_color: theme.line });
        break;
      default:
        if (/Axis$/.test(model.type)) {
          model.setv({
            axis_label_text_color: theme.ink, major_label_text_color: theme.soft, axis_line_color: theme.soft,
            major_tick_line_color: theme.soft, minor_tick_line_color: null,
          });
        }
    }
  }
}

/**
 * Put the figure `item` (bokeh.embed.json_item) into `host`.
 * @returns its document, a look-up by name, its root view, and `remove`
 */
export async function embedFigure(host, item, version, signal) {
  const Bokeh = await bokehReady(version);
  if (signal.aborted) return null;
  const views = await Bokeh.embed.embed_item({ ...structuredClone(item), target_id: null }, host);
  const roots = [...(views.roots ?? views)]; // the figure, then Bokeh's place for notifications
  const view = roots[0];
  const document = view.model.document;
  const pad = view.canvas_view?.events_el;
  pad?.setAttribute("tabindex", "-1"); // one stop for Tab is enough: the host, which shows that it has the focus
  if (pad) pad.style.outline = "none";
  const remove = () => {
    for (const one of roots) one.remove();
    document.clear?.();
    const every = Bokeh.documents; // Bokeh itself keeps each document for ever
    if (every.includes(document)) every.splice(every.indexOf(document), 1);
    host.replaceChildren();
  };
  if (signal.aborted) {
    remove();
    return null;
  }
  signal.addEventListener("abort", remove);
  return { Bokeh, view, document, named: (name) => document.get_model_by_name(name), remove };
}
