// The decision bar: always in the same place, with the key on every button.
import { el, key, swatch } from "./dom.js";
import { keyOf, numbered } from "./keys.js";

export const ACTIONS = [
  ["keep", "k", "Keep"],
  ["suggestion", "s", "Take suggestion"],
  ["label", "c", "Class"],
  ["edit", "e", "Fix boxes", "Fix"],
  ["exclude", "x", "Exclude"],
  ["relabel", "r", "Relabel"],
  ["unsure", "u", "Unsure"],
  ["note", "n", "Note"],
];
const CHIPS = 10; // classes that have a number key

export class Bar {
  #buttons = new Map();

  constructor(place, act) {
    this.act = act;
    this.note = el("input", { type: "text", id: "note", maxlength: 2000, placeholder: "Goes with the next decision; Enter keeps it, Escape drops it", onkeydown: (event) => this.#noteKey(event) });
    this.noteRow = el("div", { class: "note-row", hidden: true }, el("label", { for: "note" }, "Note"), this.note);
    this.chips = el("div", { class: "chips", role: "group", "aria-label": "Another class" });
    this.actions = el("div", { class: "actions", role: "group", "aria-label": "Decide" });
    for (const [name, shortcut, words, short] of ACTIONS) {
      const button = el("button", { type: "button", class: name === "suggestion" ? "primary" : null, "data-action": name, "aria-keyshortcuts": shortcut, onclick: () => this.#press(name) },
        el("span", { class: "words" }, el("span", { class: short ? "long" : null }, words), short ? el("span", { class: "short" }, short) : null), key(shortcut));
      this.#buttons.set(name, button);
      this.actions.append(button);
    }
    this.actions.append(el("span", { class: "push" }), el("button", { type: "button", class: "undo", "aria-keyshortcuts": "z", onclick: act.undo }, "Undo", key("z")));
    this.edits = el("div", { class: "actions edits", role: "group", "aria-label": "Fix boxes", hidden: true });
    this.classButton = el("button", { type: "button", onclick: () => this.search((label) => act.name(label)) }, "Class … ", key("c"));
    this.drawButton = el("button", { type: "button", "aria-pressed": "false", onclick: act.draw }, "Draw ", key("d"));
    this.deleteButton = el("button", { type: "button", onclick: act.remove }, "Delete ", key("Del"));
    this.editHint = el("span", { class: "soft hint" });
    this.edits.append(
      el("button", { type: "button", class: "primary", "data-action": "save", onclick: act.saveEdit }, "Save fix ", key("Enter")),
      el("button", { type: "button", onclick: act.stopEdit }, "Cancel ", key("Esc")),
      this.drawButton, this.deleteButton, this.classButton, this.editHint);
    place.append(this.noteRow, this.chips, this.actions, this.edits);
    const root = document.documentElement.style; // messages stand above the bar
    new ResizeObserver(() => root.setProperty("--bar", `${place.offsetHeight}px`)).observe(place);
  }

  show(item) {
    this.item = item;
    this.editing(false);
    const { given, suggested } = item.finding;
    this.#words("keep", given && suggested ? `Keep ${given}` : "Keep as is", "Keep");
    this.#words("suggestion", suggested && item.suggestion ? `Take ${suggested}` : "Take suggestion", "Take");
    this.#buttons.get("suggestion").title = item.suggestion?.words || "";
    this.#buttons.get("edit").hidden = !this.#boxes();
    for (const [name, button] of this.#buttons) button.setAttribute("aria-disabled", String(Boolean(this.lacking(name))));
    this.#buttons.get("note").setAttribute("aria-pressed", String(Boolean(this.note.value)));
    this.#drawChips(item);
  }
  #words(name, long, short) {
    this.#buttons.get(name).querySelector(".words").replaceChildren(el("span", { class: "long" }, long), el("span", { class: "short" }, short));
  }
  #boxes() {
    return this.item.sample?.sample_id && (this.item.kinds.includes("box") || this.item.annotations.some((one) => one.kind !== "classification"));
  }
  #drawChips(item) {
    const listed = item.classes.map((one) => one.name).join("\n");
    this.chips.hidden = !item.classes.length;
    if (this.chips.dataset.classes !== listed) {
      this.chips.dataset.classes = listed;
      const numbers = numbered(item.classes);
      this.chips.replaceChildren(...item.classes.slice(0, CHIPS).map((one) =>
        el("button", { type: "button", "data-class": one.name, onclick: () => this.#class(one.name) }, key(keyOf(numbers, one)), swatch(one.colour), el("span", {}, one.name))));
      if (item.classes.length > CHIPS) this.chips.append(el("button", { type: "button", onclick: () => this.#press("label") }, `all ${item.classes.length} `, key("c")));
    }
    this.#mark(item.finding.given, item.finding.suggested, Boolean(this.lacking("label")));
  }
  #mark(given, suggested, off) {
    for (const chip of this.chips.children) {
      const name = chip.dataset.class;
      const role = name && name === given ? "given" : name && name === suggested ? "suggested" : "";
      chip.dataset.role = role;
      chip.setAttribute("aria-disabled", String(off));
      if (role) chip.title = role;
      else chip.removeAttribute("title");
    }
  }
  #class(label) {
    if (this.edits.hidden) this.act.decide("label", { label });
    else this.act.name(label);
  }

  // Why something cannot be decided here; "" if it can.
  lacking(action) {
    const { finding, sample, suggestion, classes } = this.item;
    if (action === "suggestion" && !suggestion) return "There is no suggestion here";
    if (action === "label") {
      if (!classes.length) return "The schema has no classes";
      if (!sample?.sample_id || !(finding.annotation_id || finding.given || finding.suggested)) return "This finding is not about one label";
    }
    if (action === "edit" && !this.#boxes()) return "There are no boxes in this data set";
    if (["exclude", "relabel"].includes(action) && !sample?.sample_id) return "This finding is about the whole set";
    return "";
  }
  #press(name) {
    if (name === "note") this.openNote();
    else if (name === "edit") this.act.edit();
    else if (name === "label" && !this.lacking("label")) this.search((label) => this.act.decide("label", { label }));
    else this.act.decide(name);
  }
  rest() {
    this.editing(false);
    this.chips.hidden = true;
    for (const button of this.#buttons.values()) button.setAttribute("aria-disabled", "true");
  }

  editing(on, boxes = null) {
    this.edits.hidden = !on;
    this.actions.hidden = on;
    if (on) this.selected(boxes);
    else if (this.item) this.#drawChips(this.item);
  }
  selected(boxes) {
    const box = boxes.selected;
    this.drawButton.setAttribute("aria-pressed", String(boxes.drawing));
    this.deleteButton.setAttribute("aria-disabled", String(!box));
    this.#mark(null, box?.label ?? boxes.label, false);
    this.editHint.textContent = boxes.drawing ? "Drag on the image, or Enter for a box in the middle" : box?.shape ? "An outline stays where it is: delete it, or choose its class" : box ? "Drag the box or its corners; arrows move, Shift + arrows resize" : "Choose a box by a click or [ ]; d draws one";
  }

  openNote() {
    this.noteRow.hidden = false;
    this.note.focus();
  }
  takeNote() {
    const words = this.note.value.trim();
    this.note.value = "";
    this.noteRow.hidden = true;
    this.#buttons.get("note").setAttribute("aria-pressed", "false");
    return words;
  }
  #noteKey(event) {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") this.takeNote();
    this.noteRow.hidden = !this.note.value.trim();
    this.#buttons.get("note").setAttribute("aria-pressed", String(!this.noteRow.hidden));
    this.note.blur();
  }

  search(choose) {
    chooseClass(this.item.classes, choose);
  }
}

// A dialog with a search field over all classes.
export function chooseClass(classes, choose) {
  const dialog = el("dialog", { class: "search", "aria-label": "Choose a class" });
  const list = el("ul", { role: "listbox", id: "class-list", "aria-label": "Classes" });
  const field = el("input", { type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "class-list", "aria-label": "Search classes", autocomplete: "off", placeholder: "Part of a class name" });
  let at = 0;
  const take = (name) => {
    dialog.close();
    choose(name);
  };
  const draw = () => {
    const part = field.value.trim().toLowerCase();
    const found = classes.filter((one) => one.name.toLowerCase().includes(part)).sort((a, b) => b.name.toLowerCase().startsWith(part) - a.name.toLowerCase().startsWith(part));
    at = Math.min(Math.max(at, 0), Math.max(0, Math.min(found.length, 100) - 1));
    list.replaceChildren(...found.slice(0, 100).map((one, index) =>
      el("li", { role: "option", id: `class-${index}`, "aria-selected": String(index === at), "data-name": one.name, onclick: () => take(one.name) }, swatch(one.colour), " ", one.name)));
    field.setAttribute("aria-activedescendant", found.length ? `class-${at}` : "");
    list.children[at]?.scrollIntoView({ block: "nearest" });
  };
  field.addEventListener("input", () => ((at = 0), draw()));
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) at += step;
    else if (event.key === "Enter" && list.children[at]) return event.preventDefault(), take(list.children[at].dataset.name);
    else return;
    event.preventDefault();
    draw();
  });
  dialog.append(field, list);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  draw();
  dialog.showModal();
  field.focus();
}
