/** What a view keeps in the notebook's file. */

const NAME = "scarches_widgets"; // in the notebook's metadata

/**
 * The notes of one kind under one key, in the metadata of the notebook that a view stands in, which are saved with it.
 * Where a front end gives no notebook (VS Code, Voilà), nothing is read and nothing kept.
 */
export function keptIn(model, kind, key) {
  const notebook = model.widget_manager?.context?.model;
  const all = () => notebook?.getMetadata?.(NAME) ?? {};
  return {
    read: () => all()[kind]?.[key] ?? null,
    write(value) {
      if (!notebook?.setMetadata) return;
      const before = all();
      if (JSON.stringify(before[kind]?.[key]) === JSON.stringify(value)) return;
      notebook.setMetadata(NAME, { ...before, [kind]: { ...before[kind], [key]: value } });
    },
  };
}
