/** Pure functions behind the tree editor: following patches, keys, places, search, and the tree as text. */
import assert from "node:assert/strict";
import test from "node:test";

import {
  branches, dendrogramPlaces, dropPlace, found, isBelow, listPlaces, percent, stepAmongSiblings, synonyms, toJson, toNewick, toSvg, Tree, treeKey,
  typedRow, uppermost, visible,
} from "../../scarches_widgets/widgets/js/tree_model.js";

const alias = (name, dataset = null) => ({ name, dataset, match: null, share_of_label: null, share_of_node: null });

/** root → (T → (CD4, CD8), B) */
function small() {
  const tree = new Tree();
  tree.load({
    version: 3, ids: [0, 1, 2, 3, 4], parents: [-1, 0, 1, 1, 0], names: ["root", "T", "CD4", "CD8", "B"],
    aliases: [[], [], [alias("T helper"), alias("T helper", "donor 2")], [], []], own: { 2: [3, 0], 3: [1, 1], 4: [0, 5] },
  });
  return tree;
}
const ids = (rows) => rows.map(({ node }) => node.id);
const shown = (tree, ...closed) => visible(tree, new Set(closed));

test("patches are followed, an old one is passed over, and a gap is told", () => {
  const tree = small();
  assert.equal(tree.apply({ base: 3, version: 4, steps: [["insert", 9, 1, 1, "NKT", []], ["set", 4, "B cell", [alias("B")]]] }), true);
  assert.equal(tree.apply({ base: 4, version: 5, steps: [["place", 4, 1, 0], ["delete", 9]] }), true);
  assert.equal(toNewick(tree), "(('B cell','CD4','CD8')'T')'root';");
  assert.equal(tree.apply({ base: 3, version: 4, steps: [["delete", 4]] }), true, "known already");
  assert.equal(tree.apply({ base: 7, version: 8, steps: [["delete", 4]] }), false);
  assert.equal(tree.version, 5);
  tree.count({ 4: [1, 1], 2: [2, 0] });
  assert.deepEqual(tree.root.below, [3, 1]);
});

test("cells are summed over all nodes below, by batch", () => {
  const { nodes, root } = small();
  assert.deepEqual([root.below, nodes.get(1).below, nodes.get(1).own], [[4, 6], [4, 1], [0, 0]]);
});

test("what is below a closed node is not seen, and places in the tree are told", () => {
  const tree = small();
  assert.deepEqual(ids(shown(tree)), [0, 1, 2, 3, 4]);
  assert.deepEqual(ids(shown(tree, 1)), [0, 1, 4]);
  const { level, position, size } = shown(tree)[3];
  assert.deepEqual([level, position, size], [3, 2, 2]);
});

test("keys go, open and close as the tree pattern has it", () => {
  const rows = shown(small());
  const key = (at, name, closed = []) => treeKey(rows, at, name, new Set(closed));
  assert.deepEqual([key(0, "ArrowDown"), key(0, "ArrowUp"), key(4, "ArrowDown"), key(2, "Home"), key(0, "End")], [{ go: 1 }, { go: 0 }, { go: 4 }, { go: 0 }, { go: 4 }]);
  assert.deepEqual(key(1, "ArrowRight"), { go: 2 });
  assert.deepEqual(key(1, "ArrowRight", [1]), { open: [1] });
  assert.deepEqual(key(2, "ArrowRight"), { go: 2 });
  assert.deepEqual(key(1, "ArrowLeft"), { close: [1] });
  assert.deepEqual(key(3, "ArrowLeft"), { go: 1 });
  assert.deepEqual(key(1, "*"), { open: [1, 4] });
  assert.equal(key(1, "F2"), null);
});

test("typing finds the next name, around, and more letters stay where they fit", () => {
  const rows = shown(small());
  assert.equal(typedRow(rows, 0, "c"), 2);
  assert.equal(typedRow(rows, 2, "c"), 3);
  assert.equal(typedRow(rows, 3, "c"), 2);
  assert.equal(typedRow(rows, 2, "cd"), 2);
  assert.equal(typedRow(rows, 2, "cd8"), 3);
  assert.equal(typedRow(rows, 0, "x"), null);
});

test("a search looks at names and synonyms", () => {
  const tree = small();
  assert.deepEqual(found(tree, "HELP"), [2]);
  assert.deepEqual(found(tree, "cd"), [2, 3]);
  assert.deepEqual(found(tree, " "), []);
  assert.deepEqual(synonyms(tree.nodes.get(2)), ["T helper"]);
});

test("a node is dropped before, into or after another, counted without itself", () => {
  const { nodes } = small();
  const [T, CD4, CD8, B] = [1, 2, 3, 4].map((id) => nodes.get(id));
  assert.deepEqual(dropPlace([B], CD8, 0.1), { parent: T, position: 1, where: "before" });
  assert.deepEqual(dropPlace([CD4], CD8, 0.9), { parent: T, position: 1, where: "after" });
  assert.deepEqual(dropPlace([B, CD4], CD8, 0.1), { parent: T, position: 0, where: "before" });
  assert.deepEqual(dropPlace([B], CD8, 0.5), { parent: CD8, position: null, where: "into" });
  assert.deepEqual(uppermost([T, CD8, B]), [T, B]);
  assert.equal(dropPlace([B], T.parent, 0.1).where, "into", "nothing stands beside the root");
  assert.deepEqual([isBelow(CD4, T), isBelow(T, CD4), isBelow(T, T)], [true, false, false]);
  assert.deepEqual([stepAmongSiblings(CD4, 1), stepAmongSiblings(CD4, -1), stepAmongSiblings(CD8, 1), stepAmongSiblings(T.parent, 1)], [1, null, null, null]);
});

test("a dendrogram has leaves in rows and forks in the middle of their children", () => {
  const { rows, step } = dendrogramPlaces(shown(small()));
  const [root, T, CD4, CD8, B] = rows;
  assert.ok(CD4.y < CD8.y && CD8.y < B.y);
  assert.equal(T.y, (CD4.y + CD8.y) / 2);
  assert.equal(root.y, (T.y + B.y) / 2);
  assert.equal(CD4.x, 2 * step);
  assert.equal(branches(rows, step).match(/V/g).length, 2, "two forks");
  assert.ok(branches(rows, step, 1000, 2000) === "");
  assert.equal(listPlaces(shown(small())).height, 5 * 28);
});

test("names with quotes and markup are only text in files", () => {
  const tree = small();
  tree.apply({ base: 3, version: 4, steps: [["set", 4, "B, 'naive' <img>&\u0001", []]] });
  assert.equal(toNewick(tree), "(('CD4','CD8')'T','B, ''naive'' <img>&\u0001')'root';");
  const { nodes, cells, format } = JSON.parse(toJson(tree, [["CD4", null, 3]]));
  assert.deepEqual([nodes[0].parent, nodes[1].parent, nodes[4].name, cells, format], [null, 0, "B, 'naive' <img>&\u0001", [["CD4", null, 3]], "scarches_widgets.hierarchy"]);
  const svg = toSvg(tree);
  assert.ok(svg.includes("&lt;img&gt;&amp;") && !svg.includes("<img>") && !svg.includes("\u0001"));
});

test("shares are told in per cent, and a share that is not known is not told", () => {
  assert.deepEqual([percent(0.934), percent(0), percent(null)], ["93 %", "0 %", "–"]);
});
