/**
 * The tree on the page, as a list or as a dendrogram: the same items of one ARIA tree at other places. Only those in sight
 * are elements.
 */
import { element, follow, listen } from "./common.js";
import {
  branches, dendrogramPlaces, dropPlace, isBelow, listPlaces, pathOf, ROW, synonyms, total, treeKey, typedRow, uppermost, visible,
} from "./tree_model.js";

const MARGIN = 300; // pixels above and below the window that are drawn too
const TYPING = 900; // milliseconds within which letters are one name
const SVG = "http://www.w3.org/2000/svg";

/** Cells of a node as a bar, in parts by batch. */
function barOf(node, most) {
  const n = total(node.below);
  const parts = node.below.map((count, i) => element("span", { class: `scaw-batch-${i % 8}`, style: `width:${(100 * count) / (n || 1)}%` }));
  const bar = element("span", { class: "scaw-tree-fill", style: `width:${n ? Math.max(2, (100 * n) / most) : 0}%` }, ...parts);
  return element("span", { class: "scaw-tree-track", "aria-hidden": "true" }, bar);
}

/**
 * @param hooks `act(command, arguments, id)` edits; `shortcut(name)` opens a form; `moved()` is called when the focus has gone to
 *   another node; `announce(text)`
 */
export function treeView(model, store, signal, hooks) {
  const uid = `scaw-tree-${Math.random().toString(36).slice(2, 10)}`;
  const lines = document.createElementNS(SVG, "svg");
  lines.setAttribute("class", "scaw-tree-lines");
  lines.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  lines.append(path);
  const list = element("div", { role: "tree", class: "scaw-tree-items", "aria-multiselectable": "true", "aria-label": "Cell types" });
  const field = element("div", { class: "scaw-tree-overlay", hidden: true });
  const canvas = element("div", { class: "scaw-tree-canvas" }, lines, list, field);
  const host = element("div", { class: "scaw-tree-host" }, canvas);
  const items = new Map(); // id -> element
  const closed = new Set();
  let layout = "list";
  let rows = [];
  let at = new Map(); // id -> row
  let current = store.tree.root.id;
  let anchor = current;
  let lifted = []; // ids of the nodes that Ctrl+X took
  let matches = new Set();
  let marks = new Map(); // id -> what changed, in words
  let enabled = true;
  let typed = { text: "", time: 0 };
  let asked = 0;
  let stepNow = null; // width of a dendrogram's column

  const tree = () => store.tree;
  const nodeOf = (id) => tree().nodes.get(id);
  const selected = () => new Set(model.get("nodes"));
  const here = () => nodeOf(current) ?? tree().root;

  /** What keys and buttons act on, in the tree's order. */
  function targets() {
    const chosen = selected();
    return chosen.has(current) ? tree().sorted(chosen) : [here()];
  }

  /** Ids of the nodes that are moved if these are; none, if the root is among them. */
  const movable = (nodes) => (nodes.every(({ parent }) => parent) ? uppermost(nodes).map(({ id }) => id) : []);

  function select(ids) {
    model.set("nodes", ids);
    if (enabled) model.save_changes();
  }

  /** Find the places of all nodes that are seen. */
  function place() {
    if (!nodeOf(current)) {
      const row = at.get(current);
      const near = row && rows.slice(0, rows.indexOf(row)).reverse().find(({ node }) => nodeOf(node.id));
      current = near?.node.id ?? tree().root.id;
    }
    if (!nodeOf(anchor)) anchor = current;
    lifted = lifted.filter(nodeOf);
    rows = visible(tree(), closed);
    at = new Map(rows.map((row) => [row.node.id, row]));
    const { width, height, step } = layout === "list" ? listPlaces(rows) : dendrogramPlaces(rows, host.clientWidth);
    if (step) host.style.setProperty("--scaw-step", `${step}px`);
    stepNow = step;
    canvas.style.height = `${height}px`;
    canvas.style.minWidth = width ? `${width}px` : "0";
    if (at.has(current)) return;
    current = pathOf(here()).reverse().find(({ id }) => at.has(id)).id;
  }

  function show() {
    const hadFocus = list.contains(document.activeElement);
    place();
    paint();
    if (hadFocus) focusOn(current);
    if (!field.hidden) putField();
  }

  function paint() {
    const [top, bottom] = [host.scrollTop - MARGIN, host.scrollTop + host.clientHeight + MARGIN];
    const chosen = selected();
    const hits = hitsBelow();
    const most = total(tree().root.below) || 1;
    const seen = rows.filter(({ node, y, height }) => (y + height >= top && y <= bottom) || node.id === current);
    const ids = new Set(seen.map(({ node }) => node.id));
    for (const [id, item] of items) {
      if (ids.has(id)) continue;
      item.remove();
      items.delete(id);
    }
    seen.forEach((row, i) => {
      const { id } = row.node;
      if (!items.has(id)) items.set(id, element("div", { role: "treeitem", id: `${uid}-${id}`, "data-id": id }));
      fill(items.get(id), row, { chosen, hits, most });
      if (list.children[i] !== items.get(id)) list.insertBefore(items.get(id), list.children[i] ?? null);
    });
    path.setAttribute("d", layout === "list" ? "" : branches(rows, stepNow, top, bottom));
  }

  /** Selected cells of each node and of all below it, when cells are selected that are not simply those of the nodes. */
  function hitsBelow() {
    const own = model.get("hits");
    const below = new Map();
    for (const [id, n] of Object.entries(own)) {
      const node = nodeOf(Number(id));
      if (node) for (const one of pathOf(node)) below.set(one.id, (below.get(one.id) ?? 0) + n);
    }
    return below;
  }

  function fill(item, { node, level, position, size, x, y }, { chosen, hits, most }) {
    const isOpen = !closed.has(node.id);
    const hasChildren = node.children.length > 0;
    const n = total(node.below);
    const others = synonyms(node);
    const hit = hits.get(node.id) ?? 0;
    const mark = marks.get(node.id);
    item.className = "scaw-tree-item";
    item.tabIndex = node.id === current ? 0 : -1;
    item.draggable = enabled && node.parent !== null && !model.get("readonly");
    item.style.transform = `translate(${layout === "list" ? 0 : x}px, ${y}px)`;
    item.style.setProperty("--scaw-indent", layout === "list" ? `${x}px` : "0px");
    for (const [name, value] of [["level", level], ["posinset", position], ["setsize", size], ["selected", chosen.has(node.id)]]) {
      item.setAttribute(`aria-${name}`, String(value));
    }
    if (hasChildren) item.setAttribute("aria-expanded", String(isOpen));
    else item.removeAttribute("aria-expanded");
    item.toggleAttribute("data-lifted", lifted.includes(node.id));
    item.toggleAttribute("data-match", matches.has(node.id));
    item.toggleAttribute("data-hit", hit > 0 && !chosen.has(node.id));
    item.toggleAttribute("data-fork", hasChildren && isOpen);
    const words = [node.name, n ? `${n.toLocaleString("en")} cells` : "", others.length ? `also called ${others.join(", ")}` : "",
      hit ? `${hit.toLocaleString("en")} of them selected` : "", mark ?? "", lifted.includes(node.id) ? "cut" : ""];
    item.setAttribute("aria-label", words.filter(Boolean).join(", "));
    item.title = `${node.name}${others.length ? `\n= ${others.join(", ")}` : ""}`;
    const part = layout === "list" ? `${hit.toLocaleString("en")} of ${n.toLocaleString("en")}` : hit.toLocaleString("en");
    const counts = hit && hit < n ? part : n ? n.toLocaleString("en") : "";
    const parts = [
      element("span", { class: "scaw-tree-twist", "aria-hidden": "true" }, hasChildren ? (isOpen ? "▾" : "▸") : ""),
      element("span", { class: "scaw-tree-name" }, node.name),
      others.length && layout === "list" ? element("span", { class: "scaw-tree-others" }, `= ${others.join(", ")}`) : null,
      mark ? element("span", { class: "scaw-chip" }, mark) : null,
      element("span", { class: "scaw-tree-count" }, counts),
      most > 1 && layout === "list" ? barOf(node, most) : null,
    ];
    item.replaceChildren(...parts.filter(Boolean));
  }

  // Where the focus is

  function reveal(id) {
    for (const one of pathOf(nodeOf(id)).slice(0, -1)) closed.delete(one.id);
    if (!at.has(id)) place();
    const { x, y } = at.get(id);
    const bottom = host.scrollTop + host.clientHeight - ROW - 14; // less a scroll bar
    if (y < host.scrollTop) host.scrollTop = y;
    else if (y > bottom) host.scrollTop = y - host.clientHeight + ROW + 14;
    if (layout !== "list" && (x < host.scrollLeft || x > host.scrollLeft + host.clientWidth - 160)) host.scrollLeft = Math.max(0, x - 40);
  }

  /** Lead the focus to a node. */
  function focusOn(id = current, take = true) {
    if (!nodeOf(id)) return;
    const isNew = id !== current;
    current = id;
    reveal(id);
    paint();
    if (take) items.get(id)?.focus({ preventScroll: true });
    if (isNew || take) hooks.moved();
  }

  // Keys

  function range(from, to) {
    const [a, b] = [rows.findIndex(({ node }) => node.id === from), rows.findIndex(({ node }) => node.id === to)];
    return rows.slice(Math.max(0, Math.min(a, b)), Math.max(a, b) + 1).map(({ node }) => node.id);
  }

  function toggle(id) {
    const chosen = selected();
    if (!chosen.delete(id)) chosen.add(id);
    anchor = id;
    select([...chosen]);
  }

  const SHORTCUTS = { m: "merge", g: "group", e: "split", z: "undo", y: "redo" };

  function command(event) {
    const letter = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (letter === "a") {
        select(rows.map(({ node }) => node.id));
        hooks.announce(`${rows.length.toLocaleString("en")} nodes selected`);
      } else if (letter === "x") lift();
      else if (letter === "v") drop();
      else if (letter === "z" && event.shiftKey) hooks.shortcut("redo");
      else if (SHORTCUTS[letter]) hooks.shortcut(SHORTCUTS[letter]);
      else if (event.key === " ") toggle(current);
      else return false;
      return true;
    }
    if (event.altKey) {
      if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return false;
      hooks.shortcut(event.key === "ArrowUp" ? "up" : "down");
      return true;
    }
    switch (event.key) {
      case "F2": hooks.shortcut("rename"); return true;
      case "Insert": hooks.shortcut(event.shiftKey ? "sibling" : "child"); return true;
      case "Delete": hooks.shortcut("remove"); return true;
      case "Enter":
        anchor = current;
        select([current]);
        return true;
      case " ": toggle(current); return true;
      case "Escape":
        if (lifted.length) {
          lifted = [];
          paint();
          hooks.announce("Nothing is cut any more");
        } else if (model.get("nodes").length) select([]);
        else return false;
        return true;
      default: return false;
    }
  }

  function lift() {
    lifted = editable() ? movable(targets()) : [];
    paint();
    const [id, ...more] = lifted;
    if (id === undefined) return hooks.announce("This cannot be moved");
    hooks.announce(`${more.length ? `${lifted.length} nodes are` : `${nodeOf(id).name} is`} cut. Go to the new parent and press Control V; Escape lets go`);
  }

  function drop() {
    if (!lifted.length) return hooks.announce("Nothing is cut. Press Control X on a node first");
    const nodes = lifted;
    lifted = [];
    hooks.act("move", { nodes, parent: current }, current, nodes[0]);
  }

  function type(letter) {
    const now = performance.now();
    typed = { text: now - typed.time < TYPING ? typed.text + letter : letter, time: now };
    const same = [...typed.text].every((one) => one === letter) ? letter : typed.text;
    const row = typedRow(rows, rows.findIndex(({ node }) => node.id === current), same);
    if (row !== null) focusOn(rows[row].node.id);
  }

  listen(list, "keydown", (event) => {
    if (!event.target.matches("[role=treeitem]")) return;
    if (command(event)) return event.preventDefault();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place_ = rows.findIndex(({ node }) => node.id === current);
    const what = treeKey(rows, place_, event.key, closed, Math.max(1, Math.floor(host.clientHeight / ROW) - 1));
    if (!what) {
      if (event.key.length !== 1) return;
      type(event.key);
    } else if (what.go !== undefined) {
      focusOn(rows[what.go].node.id);
      if (event.shiftKey && event.key !== "*") select(range(anchor, current));
      else anchor = current;
    } else {
      for (const id of what.close ?? []) closed.add(id);
      for (const id of what.open ?? []) closed.delete(id);
      show();
    }
    event.preventDefault();
  }, signal);

  // Mouse

  const idOf = (event) => {
    const item = event.target.closest("[role=treeitem]");
    return item ? Number(item.dataset.id) : null;
  };

  listen(list, "click", (event) => {
    const id = idOf(event);
    if (id === null) return;
    const node = nodeOf(id);
    if (event.target.closest(".scaw-tree-twist") && node.children.length) {
      if (!closed.delete(id)) closed.add(id);
      show();
      focusOn(id);
    } else if (event.shiftKey) {
      focusOn(id);
      select(range(anchor, id));
    } else if (event.ctrlKey || event.metaKey) {
      focusOn(id);
      toggle(id);
    } else {
      anchor = id;
      focusOn(id);
      select([id]);
      if (event.detail === 2) hooks.shortcut("rename"); // a "dblclick" is lost, for the line is drawn anew in between
    }
  }, signal);

  let dragged = []; // ids
  const unmark = () => list.querySelectorAll("[data-drop]").forEach((one) => { delete one.dataset.drop; });
  function over(event) {
    const item = event.target.closest?.("[role=treeitem]");
    if (!dragged.length || !item) return null;
    const box = item.getBoundingClientRect();
    const target = nodeOf(Number(item.dataset.id));
    if (dragged.includes(target.id)) return null;
    return { item, target, ...dropPlace(dragged.map(nodeOf), target, (event.clientY - box.top) / box.height) };
  }
  listen(list, "dragstart", (event) => {
    const id = idOf(event);
    const chosen = selected();
    dragged = id === null || !editable() ? [] : movable(chosen.has(id) ? tree().sorted(chosen) : [nodeOf(id)]);
    if (!dragged.length) return event.preventDefault();
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", dragged.map((one) => nodeOf(one).name).join("\n"));
    event.stopPropagation();
  }, signal);
  listen(list, "dragover", (event) => {
    const place_ = over(event);
    unmark();
    if (!place_) return;
    event.preventDefault();
    event.stopPropagation();
    place_.item.dataset.drop = dragged.some((id) => isBelow(place_.target, nodeOf(id))) ? "no" : place_.where;
  }, signal);
  listen(list, "dragleave", unmark, signal);
  listen(list, "drop", (event) => {
    const place_ = over(event);
    unmark();
    if (!place_) return;
    event.preventDefault();
    event.stopPropagation();
    const [nodes, { parent, position, target }] = [dragged, place_];
    dragged = [];
    hooks.act("move", { nodes, parent: parent.id, position }, target.id, nodes[0]);
  }, signal);
  listen(list, "dragend", () => { dragged = []; unmark(); }, signal);

  // A field or a message in place of a node's line

  let fieldAt = null;
  function putField() {
    const row = at.get(fieldAt);
    if (!row) return closeField();
    const most = Math.max(0, host.scrollLeft + host.clientWidth - field.offsetWidth - 4);
    field.style.transform = `translate(${Math.min(layout === "list" ? row.x + 18 : row.x, most)}px, ${row.y}px)`;
  }

  /** Put elements over, or below, the line of a node; the field's own listeners end with `closeField`. */
  function openField(id, isBelow_, ...parts) {
    fieldAt = id;
    reveal(id);
    field.replaceChildren(...parts);
    field.hidden = false;
    field.toggleAttribute("data-below", isBelow_);
    putField();
    paint();
  }

  function closeField() {
    field.hidden = true;
    field.replaceChildren();
    fieldAt = null;
  }

  const editable = () => enabled && !model.get("readonly");
  listen(host, "scroll", () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(paint);
  }, signal);
  const sizes = new ResizeObserver(() => show());
  sizes.observe(host);
  signal.addEventListener("abort", () => { sizes.disconnect(); cancelAnimationFrame(asked); });
  listen(store, "tree", () => { show(); hooks.moved(); }, signal);
  follow(model, ["nodes", "hits", "readonly"], () => { paint(); hooks.moved(); }, signal);
  place();

  return {
    node: host,
    show,
    targets,
    here,
    focusOn,
    openField,
    closeField,
    selected,
    rowOf: (id) => at.get(id),
    closed,
    setLayout(wanted) {
      layout = wanted;
      host.dataset.layout = wanted;
      items.forEach((item) => item.remove());
      items.clear();
      show();
      reveal(current);
      paint();
    },
    setMatches(ids) { matches = new Set(ids); paint(); },
    setMarks(words) { marks = words; paint(); },
    setEnabled(wanted) { enabled = wanted; paint(); },
    select,
    setAll(isOpen) {
      closed.clear();
      if (!isOpen) for (const node of tree().order()) if (node.parent && node.children.length) closed.add(node.id);
      show();
    },
  };
}
