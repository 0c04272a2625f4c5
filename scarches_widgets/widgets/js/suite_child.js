/** Views of other widgets within a view. */

/**
 * Keep a host filled with views of the widgets of these ids: those that are new are made, those that are gone removed.
 * What was shown stays as it is. `failed` is told of a widget that cannot be shown.
 */
export function childViews(model, host, signal, failed) {
  const views = new Map(); // id -> promise of a view
  signal.addEventListener("abort", () => views.forEach(drop));

  function drop(view) {
    view.then((one) => one?.remove());
  }

  async function make(id, place) {
    try {
      const child = await model.widget_manager.get_model(id);
      const view = await model.widget_manager.create_view(child);
      if (signal.aborted || !views.has(id)) {
        view.remove();
        return null;
      }
      place.replaceWith(view.el);
      return view;
    } catch (error) {
      place.remove();
      failed(error);
      return null;
    }
  }

  return (ids) => {
    for (const [id, view] of [...views]) {
      if (ids.includes(id)) continue;
      views.delete(id);
      drop(view);
    }
    for (const id of ids) {
      if (views.has(id)) continue;
      const place = document.createElement("div");
      host.append(place);
      views.set(id, null);
      views.set(id, make(id, place));
    }
  };
}
