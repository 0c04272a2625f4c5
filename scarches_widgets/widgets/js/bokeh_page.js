/**
 * BokehJS, once per page. The loader (bokeh_loader.js) settles the promise; figures await it, whichever comes first.
 * Other versions of BokehJS on the page are left alone.
 */

/** The page's entry for one version: a promise of the Bokeh namespace, and the function that settles it. */
export function bokehEntry(version) {
  const registry = (globalThis.__scarches_widgets_bokeh ??= {});
  if (!registry[version]) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    registry[version] = entry;
    if (globalThis.Bokeh?.version === version) entry.resolve(globalThis.Bokeh);
  }
  return registry[version];
}

/** The Bokeh namespace, or an error after `patience` milliseconds without a loader. */
export function bokehReady(version, patience = 60000) {
  const late = new Promise((_, reject) =>
    setTimeout(() => reject(new Error(`BokehJS ${version} did not arrive. Run the cell again.`)), patience));
  return Promise.race([bokehEntry(version).promise, late]);
}
