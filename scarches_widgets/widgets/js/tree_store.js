/** What a tree editor's views share: the tree, kept up to date by patches, and questions to the kernel. */
import { Tree } from "./tree_model.js";

const stores = new WeakMap();

class Store extends EventTarget {
  constructor(model) {
    super();
    this.model = model;
    this.tree = new Tree();
    this.waiting = new Map(); // id of a question -> what to do with the answer
    this.load();
    model.on("change:tree", () => this.load());
    model.on("change:cells", () => this.changed());
    model.on("change:version", () => this.check());
    model.on("msg:custom", (content) => {
      if (content?.op === "patch") this.follow(content);
      if (content?.op === "answered") this.hear(content);
    });
  }

  load() {
    const flat = this.model.get("tree");
    if (!flat?.ids) return;
    this.tree.load(flat);
    this.changed();
    this.check();
  }

  follow({ patches, own }) {
    if (!patches.every((patch) => this.tree.apply(patch))) return; // `check` asks for the whole
    this.tree.count(own);
    this.changed();
  }

  /** Ask for the tree if a patch is missing, because it came before this page could hear. */
  check() {
    if (this.tree.version < this.model.get("version")) this.model.send({ op: "resend" });
  }

  changed() {
    this.dispatchEvent(new Event("tree"));
  }

  /** Send a command; `done(problem, made)` is called with the kernel's answer. */
  ask(content, done) {
    const id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;
    this.waiting.set(id, done);
    this.model.send({ ...content, id });
  }

  hear({ id, problem, made }) {
    const done = this.waiting.get(id);
    this.waiting.delete(id);
    done?.(problem, made);
  }
}

export function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}
