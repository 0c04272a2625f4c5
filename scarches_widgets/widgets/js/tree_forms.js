/** Forms for edits that need more than a key: where to, under which name, with which children. */
import { button, element, listen } from "./common.js";
import { cut, synonyms } from "./tree_model.js";

const MOST_NAMED = 6;

const named = (nodes) => nodes.slice(0, MOST_NAMED).map(({ name }) => `“${cut(name, 40)}”`).join(", ")
  + (nodes.length > MOST_NAMED ? ` and ${(nodes.length - MOST_NAMED).toLocaleString("en")} more` : "");

/**
 * @param ask sends `{command, arguments}` and calls back with what is wrong, or ""
 * @param back leads the focus back to the tree
 */
export function treeForms(store, signal, { ask, back }) {
  const uid = `scaw-form-${Math.random().toString(36).slice(2, 10)}`;
  const names = element("datalist", { id: `${uid}-names` });
  const host = element("div", { class: "scaw-tree-form", role: "dialog", "aria-labelledby": `${uid}-title`, hidden: true });
  let open = 0; // counts the forms: an answer may come after its form was closed

  function close(lead = true) {
    if (host.hidden) return;
    open += 1;
    host.hidden = true;
    host.replaceChildren();
    if (lead) back();
  }

  /** A field with a label; `list` offers the names of all nodes. */
  function textField(label, value = "", list = false) {
    const id = `${uid}-${Math.random().toString(36).slice(2, 8)}`;
    const input = element("input", {
      id, class: "scaw-input", type: "text", maxlength: "500", spellcheck: "false", autocomplete: "off", list: list ? names.id : null,
      "aria-describedby": `${uid}-problem`,
    });
    input.value = value;
    return { input, node: element("div", { class: "scaw-field" }, element("label", { for: id }, label), input), read: () => input.value.trim() };
  }

  /** One of a few ways. */
  function choice(legend, options) {
    const name = `${uid}-${Math.random().toString(36).slice(2, 8)}`;
    const radios = options.map(([value]) => element("input", { type: "radio", name, value }));
    radios[0].checked = true;
    const node = element("fieldset", { class: "scaw-tree-choice" }, element("legend", { class: "scaw-quiet" }, legend),
      ...radios.map((radio, i) => element("label", { class: "scaw-check" }, radio, options[i][1])));
    return { input: radios[0], node, read: () => radios.find((radio) => radio.checked).value };
  }

  function show(title, fields, label, read) {
    open += 1;
    const mine = open;
    names.replaceChildren(...(fields.some(({ input }) => input?.hasAttribute("list")) ? store.tree.order().map(({ name }) => element("option", { value: name })) : []));
    const problem = element("p", { class: "scaw-problem", id: `${uid}-problem`, role: "alert" });
    const submit = button(label, { class: "scaw-button scaw-primary" });
    const cancel = button("Cancel");
    host.replaceChildren(
      element("h4", { class: "scaw-part-title", id: `${uid}-title` }, title),
      element("div", { class: "scaw-tree-fields" }, ...fields.map(({ node }) => node)), problem,
      element("div", { class: "scaw-row" }, submit, cancel), names);
    host.hidden = false;
    const send = () => {
      problem.textContent = "";
      ask(read(), (wrong) => {
        if (mine !== open) return;
        if (!wrong) return close(false);
        problem.textContent = wrong;
        const field = fields.find(({ input }) => input?.type === "text")?.input;
        field?.setAttribute("aria-invalid", "true");
        (field ?? submit).focus();
      });
    };
    for (const { input } of fields) if (input) listen(input, "input", () => { input.removeAttribute("aria-invalid"); problem.textContent = ""; }, signal);
    listen(submit, "click", send, signal);
    listen(cancel, "click", () => close(), signal);
    host.submit = send;
    const first = fields.find(({ input }) => input)?.input ?? submit;
    first.focus();
    first.select?.();
    host.scrollIntoView({ block: "nearest" });
  }

  listen(host, "keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.target.matches("input")) host.submit();
    else return;
    event.preventDefault();
  }, signal);

  return {
    node: host,
    close,
    add(node, isSibling) {
      const parent = isSibling ? node.parent : node;
      const position = isSibling ? parent.children.indexOf(node) + 1 : null;
      const name = textField("Name");
      show(isSibling ? `New sibling of ${named([node])}` : `New child of ${named([node])}`, [name], "Add",
        () => ({ command: "add", arguments: { name: name.read(), parent: parent.id, position } }));
    },
    addLabel(label) {
      const [name, parent] = [textField("Name", label), textField("Below", store.tree.root.name, true)];
      show(`New node for the label ${named([{ name: label }])}`, [name, parent], "Add",
        () => ({ command: "add", arguments: { name: name.read(), parent: parent.read() } }));
    },
    addAlias(label) {
      const node = textField("Node", "", true);
      show(`Which node is called ${named([{ name: label }])}?`, [node], "Note it",
        () => ({ command: "add_alias", arguments: { node: node.read(), alias: label } }));
    },
    remove(nodes) {
      const n = new Set(nodes.flatMap((node) => store.tree.order(node))).size - nodes.length;
      const [one] = nodes;
      const keep = nodes.length === 1 ? `Keep its children: they go below ${named([one.parent])}` : "Keep their children: they take their place";
      const kept = choice("Children", [["keep", keep], ["drop", `Delete all ${n.toLocaleString("en")} below ${nodes.length === 1 ? "it" : "them"} too`]]);
      show(`Delete ${named(nodes)}`, [kept], "Delete",
        () => ({ command: "remove", arguments: { nodes: nodes.map(({ id }) => id), keep_children: kept.read() === "keep" } }));
    },
    move(nodes) {
      const parent = textField("Below", "", true);
      const below = nodes.some(({ children }) => children.length) ? ` and all below ${nodes.length === 1 ? "it" : "them"}` : "";
      show(`Move ${named(nodes)}${below}`, [parent], "Move",
        () => ({ command: "move", arguments: { nodes: nodes.map(({ id }) => id), parent: parent.read() } }));
    },
    merge(nodes) {
      const other = nodes.length < 2 ? textField("Merge with", "", true) : null;
      const name = textField("Name of the one node", nodes[0].name);
      show(`Merge ${named(nodes)}`, [other, name].filter(Boolean), "Merge",
        () => ({ command: "merge", arguments: { nodes: [...nodes.map(({ id }) => id), ...(other ? [other.read()] : [])], name: name.read() || null } }));
      host.append(element("p", { class: "scaw-hint" }, "The other names become synonyms, so that labels in data are found; the children come along."));
    },
    group(nodes) {
      const name = textField("Name of the new node above");
      show(`Group ${named(nodes)}`, [name], "Group", () => ({ command: "group", arguments: { nodes: nodes.map(({ id }) => id), name: name.read() } }));
    },
    split(node) {
      const others = synonyms(node);
      const boxes = others.map((name) => {
        const input = element("input", { type: "checkbox", checked: true });
        return { input, name, node: element("label", { class: "scaw-check" }, input, name) };
      });
      const more = textField(others.length ? "More names, with semicolons between" : "Names, with semicolons between");
      const where = choice("Place", node.parent ? [["below", "Below it"], ["beside", "Beside it"]] : [["below", "Below it"]]);
      const read = () => [...boxes.filter(({ input }) => input.checked).map(({ name }) => name),
        ...more.read().split(";").map((name) => name.trim()).filter(Boolean)];
      show(`Split ${named([node])} into nodes of their own`, [...boxes, more, where], "Split",
        () => ({ command: "split", arguments: { node: node.id, names: read(), below: where.read() === "below" } }));
    },
  };
}
