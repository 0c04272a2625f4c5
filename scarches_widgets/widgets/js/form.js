/** A form drawn from the traits `fields`, `values`, `meanings` and `remarks`; writes `values` and nothing else. */
import { element, follow, listen } from "./common.js";
import { showRemarks } from "./remarks.js";

const PAUSE = 600; // milliseconds without a key after which what is typed counts
const ANSWER = 1000; // milliseconds in which a kernel that is not busy has answered
export const UNREADABLE = "(not a number)"; // what stands for a text in a number input that the browser does not tell

// Pure, so that node can test them

/** The entry of a control: its text, whether it is checked, or the place of the chosen line. */
export function entryOf(field, { value, checked, selectedIndex, badInput }) {
  switch (field.kind) {
    case "switch": return Boolean(checked);
    case "choice": return field.choices[selectedIndex]?.value ?? null;
    case "text": return field.optional && value.trim() === "" ? null : value;
    case "widths": return value.trim() === "" ? null : value;
    default:
      if (badInput) return UNREADABLE;
      return value.trim() === "" ? null : Number(value);
  }
}

/** The place of an entry among a field's choices, -1 if it is none of them. */
export function placeOf(field, entry) {
  return field.choices.findIndex((choice) => choice.value === entry);
}

/** Fields under their headings, in order: [[heading, fields], …]. */
export function bySection(fields) {
  const sections = new Map();
  for (const field of fields) sections.set(field.section, [...(sections.get(field.section) ?? []), field]);
  return [...sections];
}

/** How many of these fields hold something else than their default. */
export function countChanged(fields, values) {
  return fields.filter((field) => values[field.name] !== field.default).length;
}

/** Choices under their headings, each with its place: [[heading, [[place, choice], …]], …]. */
export function byGroup(choices) {
  const groups = new Map();
  choices.forEach((choice, place) => groups.set(choice.group, [...(groups.get(choice.group) ?? []), [place, choice]]));
  return [...groups];
}

/** The names of the fields with an error, in the form's order. */
export function withErrors(fields, remarks) {
  return fields.map((field) => field.name).filter((name) => (remarks[name] ?? []).some((one) => one.level === "error"));
}

/** A field's default, as the form would show it. */
export function defaultWords(field) {
  if (field.kind === "choice") return field.choices[placeOf(field, field.default)]?.label ?? "none";
  if (field.kind === "switch") return field.default ? "on" : "off";
  return field.default === null ? "automatic" : field.default === "" ? "empty" : String(field.default);
}

/** The line above the options that come second. */
export function advancedWords(fields, values) {
  const changed = countChanged(fields, values);
  return `Advanced (${fields.length})${changed ? ` · ${changed} changed` : ""}`;
}

// In the page

function controlOf(field, id) {
  const described = `${id}-hint ${id}-remarks`;
  if (field.kind === "choice") {
    const select = element("select", { id, class: "scaw-select", "aria-describedby": described });
    for (const [group, lines] of byGroup(field.choices)) {
      const host = group ? element("optgroup", { label: group }) : select;
      host.append(...lines.map(([place, choice]) => element("option", { value: place }, choice.label)));
      if (group) select.append(host);
    }
    return select;
  }
  const common = { id, class: "scaw-input", "aria-describedby": described };
  if (field.kind === "switch") return element("input", { ...common, type: "checkbox" });
  if (["text", "widths"].includes(field.kind)) return element("input", { ...common, type: "text" });
  return element("input", {
    ...common, type: "number", step: field.kind === "whole" ? 1 : "any", min: field.least ?? field.above, max: field.most ?? field.below,
  });
}

/** The place of a choice among the lines of its select, whose groups may have changed their order. */
const lineOf = (select, place) => [...select.options].findIndex((option) => Number(option.value) === place);

function fieldOf(field, id) {
  const control = controlOf(field, id);
  const label = element("label", { for: id }, field.label);
  const hint = element("span", { class: "scaw-hint", id: `${id}-hint` }, field.hint);
  const remarks = element("ul", { class: "scaw-remarks", id: `${id}-remarks`, hidden: true });
  const head = field.kind === "switch" ? element("div", { class: "scaw-switch" }, control, label) : null;
  const changed = element("span", { class: "scaw-hint scaw-change", id: `${id}-changed` });
  const node = element("div", { class: "scaw-field", "data-option": field.name },
    ...(head ? [head] : [label, control]), changed, field.hint ? hint : null, remarks);
  if (!field.hint) control.setAttribute("aria-describedby", `${id}-remarks`);

  return {
    field, control, node,
    isBeingTyped: false, // then nothing is written over it
    timer: null,
    get entry() {
      const selectedIndex = field.kind === "choice" ? Number(control.selectedOptions[0]?.value ?? -1) : -1;
      return entryOf(field, { value: control.value, checked: control.checked, selectedIndex, badInput: control.validity.badInput });
    },
    show(entry) {
      if (field.kind === "switch") control.checked = entry === true;
      else if (field.kind === "choice") control.selectedIndex = lineOf(control, placeOf(field, entry));
      else if (entry !== UNREADABLE) control.value = entry ?? "";
    },
    /** Say that the entry is not the default, and what that is. */
    compare(entry) {
      const isChanged = entry !== field.default && !field.is_key;
      node.classList.toggle("scaw-changed", isChanged);
      changed.textContent = isChanged ? `changed; default: ${defaultWords(field)}` : "";
    },
    mean(text) {
      if (field.optional && field.kind !== "choice") control.placeholder = text ? `automatic: ${text}` : "automatic";
    },
    remark(found) {
      showRemarks(remarks, found);
      control.setAttribute("aria-invalid", String(found.some((one) => one.level === "error")));
    },
  };
}

/**
 * The form of a widget model.
 * @param announce speaks a text at once, if its second argument is true
 * @returns its node, and what the panel does with it
 */
export function formOf(model, signal, announce) {
  const host = element("div", { class: "scaw-form" });
  const own = `scaw-${Math.random().toString(36).slice(2, 10)}`;
  const summary = element("summary");
  const advanced = element("details", { class: "scaw-advanced" }, summary);
  const general = element("ul", { class: "scaw-remarks scaw-general", hidden: true, "aria-label": "About the data" });
  let drawn = new Map();
  let fields = null; // that are drawn
  let isPressed = false; // the mouse's button
  let isStale = false;
  let errors = "";
  let written = -Infinity;

  function draw() {
    fields = model.get("fields");
    drawn = new Map(model.get("fields").map((field) => [field.name, fieldOf(field, `${own}-${field.name}`)]));
    const section = ([heading, fields]) => element("fieldset", { class: "scaw-section" },
      element("legend", {}, heading), element("div", { class: "scaw-fields" }, ...fields.map((field) => drawn.get(field.name).node)));
    const first = model.get("fields").filter((field) => field.main);
    const second = model.get("fields").filter((field) => !field.main);
    advanced.replaceChildren(summary, ...bySection(second).map(section));
    advanced.hidden = !second.length;
    host.replaceChildren(...bySection(first).map(section), advanced, general);
    for (const one of drawn.values()) {
      listen(one.control, "input", () => typed(one), signal);
      listen(one.control, "change", () => write(one), signal);
      if (one.control.type === "number") listen(one.control, "wheel", () => one.control.blur(), signal); // else it scrolls the value
    }
    showValues();
    showRemarksOfAll();
  }

  /** What is typed counts when the field is left, or after a moment without a key. */
  function typed(one) {
    clearTimeout(one.timer);
    if (one.field.kind === "switch" || one.field.kind === "choice") return;
    one.isBeingTyped = true;
    one.timer = setTimeout(() => { if (one.isBeingTyped && !signal.aborted) write(one); }, PAUSE);
  }

  function write(one) {
    one.isBeingTyped = false;
    written = performance.now();
    model.set("values", { ...model.get("values"), [one.field.name]: one.entry });
    model.save_changes();
  }

  function showValues() {
    const values = model.get("values");
    for (const [name, one] of drawn) {
      if (!one.isBeingTyped && one.entry !== values[name]) one.show(values[name]);
      one.mean(model.get("meanings")[name]);
      one.compare(values[name]);
    }
    summary.textContent = advancedWords(model.get("fields").filter((field) => !field.main), values);
  }

  function showRemarksOfAll() {
    written = -Infinity;
    const remarks = model.get("remarks");
    for (const [name, one] of drawn) one.remark(remarks[name] ?? []);
    const elsewhere = Object.keys(remarks).filter((name) => !drawn.has(name));
    showRemarks(general, elsewhere.flatMap((name) => remarks[name]));
    const wrong = withErrors(model.get("fields"), remarks);
    if (wrong.some((name) => !drawn.get(name).field.main)) advanced.open = true;
    if (wrong.join() !== errors && wrong.length) announce(`Error: ${remarks[wrong[0]].find((one) => one.level === "error").text}`, true);
    errors = wrong.join();
  }

  /** Bring the form up to date; not between a press and its click, which would miss what has moved away meanwhile. */
  function show() {
    isStale = isPressed;
    if (isPressed) return;
    if (fields !== model.get("fields")) draw();
    showValues();
    showRemarksOfAll();
  }

  function release() {
    isPressed = false;
    setTimeout(() => { if (isStale && !signal.aborted) show(); }); // after the click
  }

  listen(document, "pointerdown", () => { isPressed = true; }, signal);
  listen(document, "pointerup", release, signal);
  listen(document, "pointercancel", release, signal);
  follow(model, ["fields", "values", "meanings", "remarks"], show, signal);
  draw();
  return {
    node: host,
    setEnabled(enabled) {
      for (const section of host.querySelectorAll("fieldset")) section.disabled = !enabled;
    },
    /** Whether an entry has just been sent, so that what the kernel says of it may not be here yet. */
    get awaitsAnswer() { return performance.now() - written < ANSWER; },
    /** Put the focus on the first field with an error; whether there is one. */
    focusFirstError() {
      const [name] = withErrors(model.get("fields"), model.get("remarks"));
      drawn.get(name)?.control.focus();
      return name !== undefined;
    },
  };
}
