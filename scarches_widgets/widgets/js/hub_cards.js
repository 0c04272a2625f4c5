/** Lists of models: a card for each, which keeps its place, its focus and what is open in it while the news come. */
import { actionButton } from "./actions.js";
import { element } from "./common.js";
import { bytesWords, fetchWords, fitBadge } from "./hub.js";
import { remarkElement } from "./remarks.js";

const safe = (link) => /^https:\/\/|^http:\/\/(127\.0\.0\.1|localhost|\[::1\])[:/]/.test(link);

/** A link that opens beside the notebook; text if it leads elsewhere than a server that models come from. */
export function outward(link, words = link) {
  if (!safe(link)) return element("span", {}, words);
  return element("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, words);
}

const line = (label, ...parts) => element("p", { class: "scaw-hub-line" }, element("span", { class: "scaw-soft" }, `${label} `), ...parts);

/** Why cells fit a card or do not, the worst first. */
function reasonsOf({ fit }) {
  if (!fit || fit === "checking") return [];
  return [["errors", "error"], ["warnings", "warning"], ["notes", "note"]].flatMap(([name, level]) => fit[name].map((text) => ({ level, text })));
}

/**
 * One card.
 * @param acts functions of what can be done: load, share, check, download(file); and `enabled()`, `loaded()`, `hasQuery()`
 */
function cardOf(acts, signal) {
  const id = `scaw-card-${Math.random().toString(36).slice(2, 10)}`;
  const title = element("h5", { class: "scaw-card-title", id });
  const badges = element("span", { class: "scaw-card-badges" });
  const facts = element("p", { class: "scaw-card-facts" });
  const source = element("p", { class: "scaw-hub-line scaw-soft" });
  const problem = element("ul", { class: "scaw-remarks", "aria-label": "Remarks" });
  const files = element("div");
  const reasons = element("ul", { class: "scaw-remarks", "aria-label": "How the cells fit" });
  const about = element("div", { class: "scaw-card-text" });
  const summary = element("summary", { "aria-describedby": id }, "About this model");
  const more = element("details", { class: "scaw-card-more" }, summary, reasons, about);
  const described = { "aria-describedby": id };
  const load = actionButton("Load", () => acts.load(now), signal, described);
  const share = actionButton("Share …", () => acts.share(now), signal, described);
  const check = actionButton("Compare my cells", () => acts.check(now), signal, described);
  const buttons = element("div", { class: "scaw-row scaw-card-actions" }, load.node, share.node, check.node);
  const place = element("div");
  const node = element("article", { class: "scaw-card", "aria-labelledby": id }, element("div", { class: "scaw-card-head" }, title, badges),
    facts, source, problem, files, buttons, place, more);
  const fetchers = new Map(); // name of a file -> its button
  let now = {};
  let told = "";

  function showFiles() {
    const rows = (now.files ?? []).map((file) => {
      if (!fetchers.has(file.name)) fetchers.set(file.name, actionButton("", () => acts.download(now, file.name), signal, described));
      const { node: fetch } = fetchers.get(file.name);
      const words = now.here && file.taken ? `Download ${bytesWords(file.size)} again` : fetchWords(file);
      if (fetch.textContent !== words) fetch.textContent = words;
      return element("div", { class: "scaw-hub-file" },
        element("div", {}, element("strong", {}, file.name), ` ${bytesWords(file.size)}`),
        element("div", { class: "scaw-soft scaw-sum" }, file.md5 ? `MD5 ${file.md5}` : "no checksum"), fetch);
    });
    const active = files.contains(document.activeElement) ? document.activeElement : null;
    files.replaceChildren(...rows);
    active?.focus(); // it was taken off the page and put back
  }

  function showBadges() {
    const fit = fitBadge(now, acts.hasQuery());
    badges.replaceChildren(
      ...(acts.loaded() === now.key ? [element("span", { class: "scaw-badge scaw-done" }, "loaded")] : []),
      ...(fit ? [element("span", { class: `scaw-badge scaw-fit scaw-fit-${fit.kind}` }, element("span", { "aria-hidden": "true" }, `${fit.icon} `), fit.words)] : []),
    );
  }

  return {
    node,
    place, // for the work that is done on this model
    focus: () => load.node.focus(),
    get entry() { return now; },
    update(entry) {
      const text = JSON.stringify([entry, acts.enabled(), acts.loaded(), acts.hasQuery()]);
      if (text === told) return;
      told = text;
      now = entry;
      const { fit } = entry;
      const isLocal = entry.where === "local";
      node.dataset.key = entry.key;
      node.dataset.fit = fit?.verdict ?? "";
      title.textContent = entry.title;
      showBadges();
      facts.textContent = entry.facts.join(" · ");
      facts.hidden = !entry.facts.length;
      if (isLocal) source.textContent = `${entry.folder} · ${bytesWords(entry.size)}${entry.kind === "ours" ? "" : ` · a model of ${entry.kind}`}`;
      else source.textContent = [entry.by, entry.published, entry.doi && `doi:${entry.doi}`].filter(Boolean).join(" · ");
      source.hidden = !source.textContent;
      const sentences = [];
      if (entry.problem) sentences.push(remarkElement({ level: isLocal ? "error" : "warning", text: entry.problem }));
      if (entry.here) sentences.push(remarkElement({ level: "ok", text: `This model is on this machine: ${entry.here}.` }));
      if (!isLocal && !entry.files.length) sentences.push(remarkElement({ level: "note", text: "This record has no zip file, so there is no model to fetch." }));
      const [first, ...others] = reasonsOf(entry);
      const isBad = first && first.level !== "note";
      if (isBad) sentences.push(remarkElement(first));
      problem.replaceChildren(...sentences);
      problem.hidden = !sentences.length;
      showFiles();
      load.node.hidden = isLocal ? !entry.loadable : !entry.here;
      share.node.hidden = !entry.shareable;
      const comparable = isLocal ? entry.facts.length : entry.has_card;
      check.node.hidden = !acts.hasQuery() || Boolean(fit) || !comparable;
      buttons.hidden = [load, share, check].every((one) => one.node.hidden);
      const found = first && !isBad ? [first, ...others] : others;
      reasons.replaceChildren(...found.map((one) => remarkElement(one)));
      reasons.hidden = !found.length;
      about.replaceChildren(
        ...(entry.text ? [element("p", { class: "scaw-card-words" }, entry.text)] : []),
        ...(entry.digest ? [line("SHA-256 of the model", element("span", { class: "scaw-sum" }, entry.digest))] : []),
        ...(entry.link ? [line("Page", outward(entry.link))] : []));
      more.hidden = !found.length && !about.childElementCount;
      const enabled = acts.enabled();
      for (const one of [load, share, check, ...fetchers.values()]) one.enable(enabled);
    },
  };
}

/** A list of cards under a heading. */
export function cardList(label, acts, signal) {
  const node = element("ul", { class: "scaw-cards", "aria-label": label });
  const cards = new Map();
  return {
    node,
    cards,
    /** Show these models, in this order. */
    show(entries) {
      for (const key of [...cards.keys()]) {
        if (entries.some((entry) => entry.key === key)) continue;
        cards.get(key).item.remove();
        cards.delete(key);
      }
      entries.forEach((entry, i) => {
        if (!cards.has(entry.key)) {
          const card = cardOf(acts, signal);
          cards.set(entry.key, { card, item: element("li", {}, card.node) });
        }
        const { card, item } = cards.get(entry.key);
        if (node.children[i] !== item) node.insertBefore(item, node.children[i] ?? null);
        card.update(entry);
      });
      node.hidden = !entries.length;
    },
  };
}
