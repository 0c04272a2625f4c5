/** Three steps to share a model: its card, a draft, and, apart from that, publishing it. */
import { actionButton } from "./actions.js";
import { element, follow, listen } from "./common.js";
import { authorsOf, publishMissing, uploadMissing } from "./hub.js";
import { outward } from "./hub_cards.js";

const BINDER = "This is Binder, a public machine that is thrown away: do not type tokens here. Upload from your own computer.";

/** A field with its label and a line of help. */
function fieldOf(label, control, hint = "") {
  const id = `scaw-hub-${Math.random().toString(36).slice(2, 10)}`;
  control.id = id;
  const help = element("span", { class: "scaw-hint", id: `${id}-hint` }, hint);
  control.setAttribute("aria-describedby", help.id);
  const node = element("div", { class: "scaw-field" }, element("label", { for: id }, label), control, help);
  return { node, control, help };
}

/** A token's field, which `take` empties: what is typed goes nowhere but into one message. */
function tokenField(signal, changed) {
  const input = element("input", { type: "password", class: "scaw-input", autocomplete: "off", spellcheck: "false", maxlength: "1000" });
  const { node, help } = fieldOf("Zenodo token", input);
  listen(input, "input", changed, signal);
  return {
    node, input,
    get filled() { return Boolean(input.value.trim()); },
    explain(target) {
      help.textContent = target.has_token
        ? `Empty: that of the environment variable ${target.variable}.`
        : `Of your account on ${target.name}: Applications, Personal access tokens, with deposit:write and deposit:actions. It is used once and forgotten.`;
    },
    take() {
      const bytes = new TextEncoder().encode(input.value.trim());
      input.value = "";
      return bytes.length ? [bytes] : [];
    },
    clear() { input.value = ""; },
  };
}

export function sharePart(model, signal, announce) {
  const select = element("select", { class: "scaw-select" });
  const title = element("input", { class: "scaw-input", type: "text", maxlength: "200" });
  const text = element("textarea", { class: "scaw-input scaw-hub-words", rows: "7", maxlength: "100000" });
  const authors = element("textarea", { class: "scaw-input", rows: "2", spellcheck: "false" });
  const file = element("input", { class: "scaw-input", type: "text", maxlength: "100", spellcheck: "false" });
  const confirm = element("input", { class: "scaw-input", type: "text", maxlength: "200", spellcheck: "false", autocomplete: "off" });
  const [firstToken, secondToken] = [tokenField(signal, show), tokenField(signal, show)];
  const fields = {
    select: fieldOf("Model", select), title: fieldOf("Title of the card", title),
    text: fieldOf("Text of the card", text, "What the model is, of which cells, how to cite it. Plain text; also the record's description."),
    authors: fieldOf("Authors", authors, "Each as Last, First; one in a line, or between semicolons."),
    file: fieldOf("Name of the files", file, "Letters, digits, _ . and -; empty: the folder's name."),
    confirm: fieldOf("Title, typed again", confirm),
  };
  const reason = () => element("span", { class: "scaw-hint", id: `scaw-hub-${Math.random().toString(36).slice(2, 10)}` });
  const [why, whyNot] = [reason(), reason()];
  const saved = element("span", { class: "scaw-hint" });
  const save = actionButton("Save card", () => {
    model.send({ op: "edit", key: model.get("editing").key, title: title.value, text: text.value });
    dirty = false;
    awaiting = true;
  }, signal);
  const primary = { class: "scaw-button scaw-primary" };
  const upload = actionButton("Create the draft", () => {
    const { has_card: hasCard, key } = model.get("editing");
    const words = hasCard ? { title: title.value, text: text.value } : { title: title.value };
    const content = { op: "upload", key, creators: authorsOf(authors.value), file_name: file.value.trim(), ...words };
    dirty = false;
    model.send(content, undefined, firstToken.take()); // beside the message, whose text Jupyter may log
    show();
  }, signal, { ...primary, "aria-describedby": why.id });
  const publish = actionButton("Publish for ever", () => {
    model.send({ op: "publish", title: confirm.value }, undefined, secondToken.take());
    confirm.value = "";
    show();
  }, signal, { ...primary, "aria-describedby": whyNot.id });
  const forget = actionButton("Begin another draft", () => model.send({ op: "forget" }), signal);
  const notice = element("div", { class: "scaw-notice" });
  const where = element("p", { class: "scaw-hub-line" });
  const binder = element("p", { class: "scaw-notice scaw-warning" }, BINDER);
  const place = element("div");
  const second = element("legend", {}, "");
  const forEver = element("p", { class: "scaw-hub-line" });
  const step = (legend, ...children) => element("fieldset", { class: "scaw-section" }, legend, ...children);
  const third = step(element("legend", {}, "3. Publish"), forEver, fields.confirm.node, secondToken.node,
    element("div", { class: "scaw-row" }, publish.node, whyNot));
  const content = element("div", { class: "scaw-hub-steps" }, binder,
    step(element("legend", {}, "1. The model and its card"), fields.select.node, fields.title.node, fields.text.node,
      element("div", { class: "scaw-row" }, save.node, saved)),
    step(second, where, element("div", { class: "scaw-fields" }, fields.authors.node, fields.file.node), firstToken.node,
      element("div", { class: "scaw-row" }, upload.node, why), place, notice),
    third);
  const empty = element("p", {}, "There is no model to share in the folder. Save one there: ", element("code", {}, "sca.hub.save(model, …)"), ", then look again.");
  const node = element("details", { class: "scaw-hub-part" }, element("summary", {}, "Share a model on Zenodo"), empty, content);
  let detached = false;
  let dirty = false; // the card's words differ from those that the kernel has told
  let awaiting = false; // a card was saved, and it was not said yet
  let told = "";

  function showModels() {
    const models = model.get("local").filter((one) => one.shareable);
    const chosen = model.get("editing").key ?? "";
    const pairs = [["", "choose a model"], ...models.map((one) => [one.key, `${one.title} (${one.folder})`])];
    select.replaceChildren(...pairs.map(([value, words]) => element("option", { value, selected: value === chosen }, words)));
    empty.hidden = models.length > 0;
    content.hidden = !models.length;
  }

  function showCard() {
    const { key = "", title: words = "", text: more = "" } = model.get("editing");
    const changed = told !== key;
    told = key;
    if (changed || !dirty) {
      title.value = words;
      text.value = more;
      dirty = false;
    }
    if (changed) saved.textContent = "";
    else if (awaiting) {
      awaiting = false;
      saved.textContent = "Saved.";
      announce("The card is saved.", true);
    }
    select.value = key;
    show();
  }

  function showDraft() {
    const draft = model.get("draft");
    notice.hidden = !draft.id;
    notice.className = `scaw-notice${draft.state === "public" ? "" : " scaw-warning"}`;
    const words = {
      begun: ["Not public: ", "The draft is begun, and the model is not in it yet. Upload again to go on. Only you can open it: "],
      filled: ["Not public yet: ", "The model is in a draft that only you can open, delete or publish. Look at it there: "],
      public: ["Public: ", "The record can be found and fetched by everybody: "],
    }[draft.state];
    if (words) notice.replaceChildren(element("strong", {}, words[0]), element("span", {}, words[1]), outward(draft.link), element("div", { class: "scaw-row" }, forget.node));
    forget.node.textContent = draft.state === "public" ? "Share another one" : "Begin another draft";
    show();
  }

  function show() {
    const [target, editing, draft, status] = ["target", "editing", "draft", "status"].map((name) => model.get(name));
    const busy = ["running", "stopping"].includes(status);
    const { key = "", has_card: hasCard } = editing;
    const open = Boolean(key) && !detached;
    binder.hidden = !target.on_binder;
    second.textContent = `2. A draft on ${target.name}`;
    where.textContent = target.sandbox
      ? "The sandbox is for trying: it has accounts and tokens of its own, and is emptied from time to time. For Zenodo itself, run sca.hub.zenodo.configure(sandbox=False) in a cell and look again."
      : `Models go to ${target.name}, as sca.hub.zenodo.configure says. A draft is seen by you alone.`;
    const again = draft.id && draft.state !== "public" && draft.key === key;
    for (const one of [title, authors]) one.disabled = !open;
    file.disabled = !open || Boolean(again); // the draft has it under its name
    text.disabled = !open || !hasCard;
    select.disabled = detached;
    fields.text.help.textContent = key && !hasCard
      ? "This model has no card yet; one is made when it is uploaded."
      : "What the model is, of which cells, how to cite it. Plain text; also the record's description.";
    save.enable(open && hasCard && dirty && !busy);
    for (const one of [firstToken, secondToken]) {
      one.input.disabled = !open || target.on_binder;
      one.explain(target);
      if (detached) one.clear();
    }
    const common = { target, busy, detached };
    why.textContent = uploadMissing({ ...common, key, title: title.value, authors: authorsOf(authors.value), hasToken: firstToken.filled || target.has_token });
    upload.enable(!why.textContent);
    upload.node.textContent = again ? "Upload again into the draft" : "Create the draft";
    third.hidden = draft.state !== "filled";
    forEver.replaceChildren("A published record gets a DOI, and can neither be deleted nor changed. To publish ", element("strong", {}, draft.title ?? ""), `, type its title.`);
    confirm.disabled = detached;
    whyNot.textContent = publishMissing({ ...common, draft, title: confirm.value, hasToken: secondToken.filled || target.has_token });
    publish.enable(!whyNot.textContent);
    forget.enable(!busy && !detached);
  }

  for (const one of [title, text]) listen(one, "input", () => { dirty = true; saved.textContent = ""; show(); }, signal);
  for (const one of [authors, confirm]) listen(one, "input", show, signal);
  listen(select, "change", () => { if (select.value) model.send({ op: "choose", key: select.value }); }, signal);
  follow(model, ["local"], showModels, signal);
  follow(model, ["editing"], showCard, signal);
  follow(model, ["draft"], showDraft, signal);
  follow(model, ["target", "status"], show, signal);
  showModels();
  showCard();
  showDraft();
  return {
    node,
    place, // for the work that is done here
    begin(key) {
      node.open = true;
      if (model.get("editing").key !== key) model.send({ op: "choose", key });
      select.focus();
      node.scrollIntoView({ block: "nearest" });
    },
    setDetached(gone) { detached = gone; show(); },
  };
}
