import { actionButton, codeDetails } from "./js/actions.js";
import {
  announcer, element, errorNotice, follow, followKernel, followTheme, frame, listen, statusBadge,
} from "./js/common.js";
import { matches, workWords } from "./js/hub.js";
import { cardList } from "./js/hub_cards.js";
import { sharePart } from "./js/hub_share.js";

const ACTIVE = ["running", "stopping"];
const SHARING = ["choose", "edit", "upload", "publish", "forget"]; // what is asked for in the steps to share

/** The one work that is done, shown where it was asked for: how far it is, Cancel, what came of it. */
function workPart(model, signal, announce) {
  const bar = element("progress", { max: 1, "aria-label": "Progress" });
  const words = element("span", { class: "scaw-progress-words" });
  const cancel = actionButton("Cancel", () => model.send({ op: "cancel" }), signal);
  const row = element("div", { class: "scaw-row scaw-progress" }, bar, words, cancel.node);
  const outcome = element("p", { class: "scaw-outcome" });
  const node = element("div", { class: "scaw-hub-work" }, row, outcome, errorNotice(model, signal));
  let told = "";
  return {
    node,
    show(status, detached) {
      const work = model.get("work");
      const active = ACTIVE.includes(status);
      row.hidden = !active;
      words.textContent = status === "stopping" ? "Stopping …" : workWords(work);
      if (work.total) bar.value = work.done / work.total; else bar.removeAttribute("value");
      cancel.node.hidden = !["download", "upload"].includes(work.op);
      cancel.enable(status === "running" && !detached);
      outcome.textContent = active ? "" : work.words ?? "";
      outcome.hidden = !outcome.textContent;
      const now = active ? words.textContent : outcome.textContent;
      if (now && now !== told) announce(now, !active || !told);
      told = now;
    },
  };
}

function render({ model, el }) {
  const { root, signal, remove } = frame(el, "Model hub");
  const { badge, show: showStatus } = statusBadge();
  const facts = element("span", { class: "scaw-soft" });
  root.append(element("div", { class: "scaw-head" }, element("h3", { class: "scaw-title" }, "Model hub"), badge, facts));
  const announce = announcer(root, signal);
  let detached = false;
  let said = "";

  const wanted = element("input", { class: "scaw-input", type: "search", maxlength: "300", spellcheck: "false" });
  const site = element("select", { class: "scaw-select", "aria-label": "Site" });
  const ask = () => model.send({ op: "search", text: wanted.value, site: site.value });
  const go = actionButton("Search", ask, signal, { class: "scaw-button scaw-primary", title: "Enter" });
  const halt = actionButton("Stop searching", () => model.send({ op: "stop_search" }), signal);
  const searching = element("div", { class: "scaw-row", role: "search", "aria-label": "Models" },
    element("label", { class: "scaw-hub-search" }, element("span", {}, "Search"), wanted),
    element("span", { class: "scaw-hub-site" }, element("span", { "aria-hidden": "true" }, "on"), site), go.node, halt.node);

  const acts = {
    enabled: () => !detached && !ACTIVE.includes(model.get("status")),
    loaded: () => model.get("loaded"),
    hasQuery: () => model.get("has_query"),
    load: ({ key, here }) => model.send({ op: "load", key: here ? `local:${here}` : key }),
    share: ({ key }) => sharing.begin(key),
    check: ({ key }) => model.send({ op: "check", key }),
    download: ({ key, files }, file) => model.send({ op: "download", key, file, overwrite: files.some((one) => one.name === file && one.taken) }),
  };
  const again = actionButton("Look again", () => model.send({ op: "refresh" }), signal, { title: "Look into the folder again, and compare the query with all cards" });
  const [local, remote] = [cardList("Models on this machine", acts, signal), cardList("Records", acts, signal)];
  const heading = () => element("h4", { class: "scaw-hub-title" });
  const [here, there] = [heading(), heading()];
  const none = element("p", { class: "scaw-soft" });
  const state = element("p", { class: "scaw-soft" });
  const failed = element("div", { role: "alert" });
  const retry = actionButton("Try again", () => model.send({ op: "search", ...asked() }), signal);
  const more = actionButton("More records", () => model.send({ op: "search", more: true }), signal);
  const further = element("div", { class: "scaw-row" }, retry.node, more.node);
  const top = element("div");
  const work = workPart(model, signal, announce);
  const sharing = sharePart(model, signal, announce);
  const code = codeDetails(model, signal, announce);
  const asked = () => { const { text, site: web } = model.get("finding"); return { text, site: web }; };
  const lost = element("p", { class: "scaw-reason", hidden: true }, "The kernel was restarted or has died; what is shown is kept.");
  root.append(searching, lost, top,
    element("section", { class: "scaw-hub-part", "aria-label": "On this machine" }, element("div", { class: "scaw-row scaw-hub-head" }, here, again.node), none, local.node),
    element("section", { class: "scaw-hub-part", "aria-label": "On Zenodo" }, there, state, failed, remote.node, further),
    sharing.node, code);

  function showLocal() {
    const all = model.get("local");
    const kept = all.filter((one) => matches(one, wanted.value.trim()));
    here.textContent = kept.length === all.length ? `On this machine (${all.length})` : `On this machine (${kept.length} of ${all.length})`;
    none.textContent = all.length ? "None has all these words on its card." : "No model lies in the folder yet. Search for one, or save one there: sca.hub.save(model, …).";
    none.hidden = kept.length > 0;
    local.show(kept);
    placeWork();
  }

  function showRemote() {
    const entries = model.get("remote");
    const { text, state: how, more: hasMore, problem = "", site: web } = model.get("finding");
    const name = model.get("sites").find(([one]) => one === web)?.[1] ?? web;
    const n = entries.length;
    there.textContent = how === "none" ? "On Zenodo" : `On ${name}`;
    state.textContent = {
      none: "Type what you look for and press Search. Nothing is asked of a server before.",
      running: `Searching ${name} for “${text}” …`,
      stopped: "The search was stopped.",
      done: n ? `${n} ${n === 1 ? "record" : "records"} for “${text}”${hasMore ? ", and more" : ""}.` : `No record for “${text}”. Try fewer or other words.`,
      failed: "",
    }[how];
    state.hidden = !state.textContent;
    failed.replaceChildren(...(how === "failed" ? [element("div", { class: "scaw-notice scaw-error" }, element("strong", {}, "✕ The search failed."), problem)] : []));
    retry.node.hidden = how !== "failed" && how !== "stopped";
    more.node.hidden = !hasMore;
    further.hidden = retry.node.hidden && !hasMore;
    halt.node.hidden = how !== "running";
    remote.show(entries);
    if (how !== "none" && state.textContent !== said) announce(state.textContent, true);
    said = state.textContent;
    placeWork();
  }

  function showSites() {
    const chosen = site.value || model.get("finding").site;
    site.replaceChildren(...model.get("sites").map(([web, name]) => element("option", { value: web, selected: web === chosen }, name)));
  }

  /** The work is shown on the card that it is about. */
  function placeWork() {
    const { op, key } = model.get("work");
    const card = local.cards.get(key)?.card ?? remote.cards.get(key)?.card;
    const place = SHARING.includes(op) ? sharing.place : card?.place ?? top;
    if (work.node.parentNode !== place) place.append(work.node);
  }

  function show() {
    const status = detached ? "detached" : model.get("status");
    showStatus(status);
    root.dataset.status = status;
    facts.textContent = model.get("facts");
    lost.hidden = !detached;
    site.disabled = detached;
    for (const one of [go, halt, again, retry, more]) one.enable(!detached);
    showLocal();
    showRemote();
    work.show(status, detached);
  }

  listen(wanted, "input", showLocal, signal);
  listen(wanted, "keydown", (event) => { if (event.key === "Enter") go.node.click(); }, signal);
  follow(model, ["sites"], showSites, signal);
  follow(model, ["status", "facts", "local", "remote", "finding", "work", "loaded", "has_query"], show, signal);
  followTheme(root, () => {}, signal);
  followKernel(model, (gone) => { detached = gone; sharing.setDetached(gone); show(); }, signal);
  showSites();
  wanted.value = model.get("finding").text;
  show();
  return remove;
}

export default { render };
