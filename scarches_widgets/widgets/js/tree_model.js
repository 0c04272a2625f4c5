/** A tree as the kernel tells it, first as columns and then by patches; what is seen of it, and it as text. Pure. */

export const ROW = 28; // pixels
const SHORT = 23; // a dendrogram's
const INDENT = 18;
const COLUMN = [124, 190]; // of a dendrogram, at least and at most

export class Tree {
  constructor() {
    this.load({ version: -1, ids: [0], parents: [-1], names: [""], aliases: [[]], own: {} });
  }

  load({ version, ids, parents, names, aliases, own }) {
    this.version = version;
    this.nodes = new Map();
    ids.forEach((id, i) => {
      const parent = this.nodes.get(parents[i]) ?? null;
      const node = { id, name: names[i], aliases: aliases[i], parent, children: [] };
      parent?.children.push(node);
      this.nodes.set(id, node);
    });
    this.root = this.nodes.get(ids[0]);
    this.count(own);
  }

  /** Follow the kernel; false if something is missing in between. */
  apply({ base, version, steps }) {
    if (version <= this.version) return true;
    if (base !== this.version) return false;
    for (const [what, id, ...rest] of steps) {
      const node = this.nodes.get(id);
      if (what === "insert") {
        const [parent, position, name, aliases] = rest;
        const fresh = { id, name, aliases, parent: this.nodes.get(parent), children: [] };
        fresh.parent.children.splice(position, 0, fresh);
        this.nodes.set(id, fresh);
      } else if (what === "delete") {
        node.parent.children.splice(node.parent.children.indexOf(node), 1);
        this.nodes.delete(id);
      } else if (what === "place") {
        node.parent.children.splice(node.parent.children.indexOf(node), 1);
        node.parent = this.nodes.get(rest[0]);
        node.parent.children.splice(rest[1], 0, node);
      } else {
        [node.name, node.aliases] = rest;
      }
    }
    this.version = version;
    return true;
  }

  /** Cells of each node's own labels by batch, then with those of all below it. */
  count(own) {
    const n = Object.values(own)[0]?.length ?? 0;
    const order = this.order();
    for (const node of order) {
      node.own = own[node.id] ?? new Array(n).fill(0);
      node.below = [...node.own];
    }
    for (let i = order.length - 1; i > 0; i -= 1) {
      const { below, parent } = order[i];
      for (let j = 0; j < n; j += 1) parent.below[j] += below[j];
    }
  }

  /** All nodes, each before its children. */
  order(from = this.root) {
    const order = [];
    const ahead = [from];
    while (ahead.length) {
      const node = ahead.pop();
      order.push(node);
      for (let i = node.children.length - 1; i >= 0; i -= 1) ahead.push(node.children[i]);
    }
    return order;
  }

  /** Nodes of these ids in the tree's order, so that none comes after one that is below it. */
  sorted(ids) {
    const wanted = new Set(ids);
    return this.order().filter(({ id }) => wanted.has(id));
  }
}

export const total = (counts) => counts.reduce((sum, n) => sum + n, 0);

export const pathOf = (node) => (node.parent ? [...pathOf(node.parent), node] : [node]);

export const isBelow = (node, other) => pathOf(node).slice(0, -1).includes(other);

/** The nodes without those that go along with another of them. */
export function uppermost(nodes) {
  const all = new Set(nodes);
  return nodes.filter((node) => !pathOf(node).slice(0, -1).some((one) => all.has(one)));
}

/** What data sets call a node besides its name, each once. */
export const synonyms = (node) => [...new Set(node.aliases.map(({ name }) => name))].filter((name) => name !== node.name);

/** The nodes that are seen: all but those below closed ones. */
export function visible(tree, closed) {
  const rows = [];
  const ahead = [{ node: tree.root, level: 1, position: 1, size: 1 }];
  while (ahead.length) {
    const row = ahead.pop();
    rows.push(row);
    if (closed.has(row.node.id)) continue;
    const { children } = row.node;
    for (let i = children.length - 1; i >= 0; i -= 1) {
      ahead.push({ node: children[i], level: row.level + 1, position: i + 1, size: children.length });
    }
  }
  return rows;
}

/** Rows one below the other. */
export function listPlaces(rows) {
  rows.forEach((row, i) => Object.assign(row, { x: (row.level - 1) * INDENT, y: i * ROW, height: ROW }));
  return { rows, width: 0, height: rows.length * ROW };
}

/** Leaves one below the other, other nodes in the middle of their children; columns as wide as `room` allows. */
export function dendrogramPlaces(rows, room = Infinity) {
  const at = new Map(rows.map((row) => [row.node.id, row]));
  let leaf = rows.filter(({ node }) => !node.children.some(({ id }) => at.has(id))).length;
  const height = leaf * SHORT;
  const deepest = rows.reduce((most, { level }) => Math.max(most, level), 1);
  const step = Math.max(COLUMN[0], Math.min(COLUMN[1], Math.floor((room - 60) / deepest)));
  for (let i = rows.length - 1; i >= 0; i -= 1) {
    const row = rows[i];
    const below = row.node.children.map(({ id }) => at.get(id)).filter(Boolean);
    if (below.length) {
      row.y = (below[0].y + below.at(-1).y) / 2;
      row.span = [below[0].y, below.at(-1).y];
    } else {
      leaf -= 1;
      row.y = leaf * SHORT;
      row.span = null;
    }
    row.x = (row.level - 1) * step;
    row.height = SHORT;
  }
  return { rows, width: deepest * step + 50, height, step };
}

/** Lines of the dendrogram between two heights, as an SVG path: each branch under its name, and the forks. */
export function branches(rows, step, from = -Infinity, to = Infinity) {
  const middle = SHORT - 2;
  let path = "";
  for (const { x, y, span } of rows) {
    if (y + SHORT >= from && y <= to) path += `M${x} ${y + middle}H${x + step}`;
    if (span && span[0] !== span[1] && span[1] + SHORT >= from && span[0] <= to) {
      path += `M${x + step} ${span[0] + middle}V${span[1] + middle}`;
    }
  }
  return path;
}

/**
 * What a key of the tree pattern does at row `at`.
 * @returns `{ go }`: to another row; `{ open }` or `{ close }`: these ids; or null
 */
export function treeKey(rows, at, key, closed, page = 12) {
  const last = rows.length - 1;
  const { node, level } = rows[at];
  const isOpen = node.children.length > 0 && !closed.has(node.id);
  switch (key) {
    case "ArrowDown": return { go: Math.min(last, at + 1) };
    case "ArrowUp": return { go: Math.max(0, at - 1) };
    case "PageDown": return { go: Math.min(last, at + page) };
    case "PageUp": return { go: Math.max(0, at - page) };
    case "Home": return { go: 0 };
    case "End": return { go: last };
    case "ArrowRight":
      if (!node.children.length) return { go: at };
      return isOpen ? { go: at + 1 } : { open: [node.id] };
    case "ArrowLeft":
      if (isOpen) return { close: [node.id] };
      for (let i = at; i >= 0; i -= 1) if (rows[i].level === level - 1) return { go: i };
      return { go: at };
    case "*":
      return { open: (node.parent?.children ?? [node]).map(({ id }) => id) };
    default: return null;
  }
}

/** The next row, around, whose name begins with what was typed; with one letter not the current one. */
export function typedRow(rows, at, typed) {
  const wanted = typed.toLowerCase();
  for (let step = wanted.length > 1 ? 0 : 1; step <= rows.length; step += 1) {
    const i = (at + step) % rows.length;
    if (rows[i].node.name.toLowerCase().startsWith(wanted)) return i;
  }
  return null;
}

/** Ids of the nodes that have a text in their name or in a synonym. */
export function found(tree, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const has = (name) => name.toLowerCase().includes(wanted);
  return tree.order().filter((node) => has(node.name) || node.aliases.some(({ name }) => has(name))).map(({ id }) => id);
}

/** Where nodes go that are dropped on the upper edge, the middle or the lower edge of another. */
export function dropPlace(nodes, target, share) {
  if (!target.parent || (share > 0.28 && share < 0.72)) return { parent: target, position: null, where: "into" };
  const siblings = target.parent.children.filter((one) => !nodes.includes(one));
  const after = share >= 0.72;
  return { parent: target.parent, position: siblings.indexOf(target) + after, where: after ? "after" : "before" };
}

/** Where a node is among its siblings after a step up or down; null at the end. */
export function stepAmongSiblings(node, by) {
  const at = node.parent ? node.parent.children.indexOf(node) + by : -1;
  return node.parent && at >= 0 && at < node.parent.children.length ? at : null;
}

const quoted = (name) => `'${name.replaceAll("'", "''")}'`;

/** As `Hierarchy.to_newick` writes it. */
export function toNewick(tree) {
  const pieces = [];
  const ahead = [tree.root];
  while (ahead.length) {
    const part = ahead.pop();
    if (typeof part === "string") pieces.push(part);
    else if (!part.children.length) pieces.push(quoted(part.name));
    else {
      ahead.push(`)${quoted(part.name)}`);
      for (let i = part.children.length - 1; i >= 0; i -= 1) ahead.push(part.children[i], ",");
      ahead[ahead.length - 1] = "("; // before the first child
    }
  }
  return `${pieces.join("")};`;
}

/** As `Hierarchy.to_json` writes it; `cells` are rows of label, data set and number. */
export function toJson(tree, cells) {
  const nodes = tree.order().map(({ id, parent, name, aliases }) => ({ id, parent: parent?.id ?? null, name, aliases }));
  return JSON.stringify({ format: "scarches_widgets.hierarchy", format_version: 1, nodes, cells }, null, 1);
}

const escaped = (text) => text.replace(/[&<>"]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[one])
  .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "�"); // no XML

/** The dendrogram of all nodes that are seen, as a file; always light. */
export function toSvg(tree, closed = new Set()) {
  const { rows, width, height, step } = dendrogramPlaces(visible(tree, closed));
  const texts = rows.map(({ node, x, y }) => {
    const n = total(node.below);
    const count = n ? ` <tspan fill="#55555f">${n.toLocaleString("en")}</tspan>` : "";
    return `<text x="${x + 4}" y="${y + SHORT - 7}">${escaped(cut(node.name, node.children.length ? 22 : 32))}${count}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 ${width + 16} ${height + 16}" width="${width + 16}" height="${height + 16}" `
    + `font-family="sans-serif" font-size="12"><rect x="-8" y="-8" width="100%" height="100%" fill="#fff"/>`
    + `<path d="${branches(rows, step)}" fill="none" stroke="#8a8a93"/>${texts.join("")}</svg>`;
}

export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** 0.934 as "93 %"; a share that is not known as "–". */
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);
