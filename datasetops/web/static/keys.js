// The one table of keys: handlers are bound by name, buttons show the key, and ? lists them.
import { el, key } from "./dom.js";

export const KEYS = [
  ["Decide", [
    ["keep", "k", "Keep: right as it is"],
    ["suggestion", "s", "Take the suggestion"],
    ["class", "1–9 0", "Class by its number"],
    ["search", "c", "Another class: search"],
    ["edit", "e", "Fix the boxes"],
    ["exclude", "x", "Exclude the image"],
    ["relabel", "r", "Send to relabeling"],
    ["unsure", "u", "Unsure"],
    ["note", "n", "Note"],
    ["undo", "z", "Undo"],
  ]],
  ["Go", [
    ["next", "j →", "Next without a decision"],
    ["previous", "←", "Previous"],
    ["grid", "g", "To the list, and there: list or grid"],
    ["open", "Enter", "Open the item (list)"],
    ["select", "Space", "Select (list); with Shift a range"],
    ["all", "a", "Select all on the page (list)"],
    ["help", "?", "This table"],
  ]],
  ["Look", [
    ["zoom", "+ − w", "Zoom in, out, whole image"],
    ["focus", "f", "Zoom to what the finding is about"],
    ["pan", "Shift + arrows", "Move the image; also Space + arrows, or drag"],
    ["overlay", "o", "Outlines: all, this one, none"],
    ["smooth", "p", "Pixels or smooth"],
  ]],
  ["While fixing boxes", [
    ["pick", "[ ]", "Box before, next box"],
    ["move", "arrows", "Move by 1 pixel; with Alt by 10"],
    ["resize", "Shift + arrows", "Resize by 1 pixel; with Alt by 10"],
    ["draw", "d", "Draw a box: drag, or Enter for one in the middle"],
    ["delete", "Delete", "Delete the box"],
    ["save", "Enter", "Save the fix"],
    ["cancel", "Escape", "Leave without a fix"],
  ]],
];

const OFF = "dsops.keys.off"; // single keys get in the way of speech input and of some screen readers

function off() {
  try {
    return localStorage.getItem(OFF) === "1";
  } catch {
    return false;
  }
}

function turn(on) {
  try {
    if (on) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
  } catch {
    // it cannot be kept
  }
}

// Number key → class, of the first ten: one that is called 7 has the 7, the others take what is free, 1 to 9, then 0.
export function numbered(classes) {
  const first = classes.slice(0, 10);
  const named = new Map(first.filter((one) => /^[0-9]$/.test(one.name)).map((one) => [one.name, one]));
  const free = [..."1234567890"].filter((digit) => !named.has(digit));
  const others = first.filter((one) => !/^[0-9]$/.test(one.name)).map((one) => [free.shift(), one]);
  return new Map([...named, ...others]);
}
export const keyOf = (numbers, one) => [...numbers].find(([, other]) => other === one)?.[0] ?? null;

const typing = (target) => target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");

// handlers: name or key → function(event). A handler that returns false lets the browser go on.
export function bindKeys(handlers) {
  const names = new Map([
    ["k", "keep"], ["s", "suggestion"], ["c", "search"], ["e", "edit"], ["x", "exclude"], ["r", "relabel"], ["u", "unsure"],
    ["n", "note"], ["z", "undo"], ["j", "next"], ["ArrowRight", "next"], ["ArrowLeft", "previous"], ["g", "grid"], ["?", "help"],
    ["+", "in"], ["=", "in"], ["-", "out"], ["0", "digit"], ["o", "overlay"], ["p", "smooth"], ["f", "focus"], ["a", "all"],
    ["d", "draw"], ["[", "before"], ["]", "after"], ["Delete", "delete"], ["Backspace", "delete"], ["Escape", "cancel"],
    ["Enter", "enter"], [" ", "space"], ["ArrowUp", "up"], ["ArrowDown", "down"], ["w", "whole"],
  ]);
  for (const digit of "123456789") names.set(digit, "digit");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.defaultPrevented || event.isComposing) return;
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const name = names.get(event.key) || names.get(event.key.toLowerCase());
    const own = handlers.any?.(event, name);
    if (!own && ["Enter", " "].includes(event.key) && event.target.closest?.("button, a, summary, input")) return; // does what it is for
    if (off() && event.key.length === 1 && event.key !== " ") return;
    const handler = own ?? (name === "help" ? showKeys : handlers[name]);
    if (typeof handler !== "function") return;
    if (handler(event) !== false) event.preventDefault();
  });
}

export function showKeys() {
  let dialog = document.getElementById("keys");
  if (!dialog) {
    dialog = el("dialog", { id: "keys", class: "keys", "aria-labelledby": "keys-title" }, el("h2", { id: "keys-title", tabindex: "-1", autofocus: true }, "Keys"));
    const groups = el("div", { class: "columns" });
    for (const [title, rows] of KEYS) {
      const list = el("dl", { class: "keylist" });
      for (const [, keys, words] of rows) list.append(el("div", {}, el("dt", {}, key(keys)), el("dd", {}, words)));
      groups.append(el("section", {}, el("h3", {}, title), list));
    }
    const single = el("input", { type: "checkbox", id: "single-keys", onchange: () => turn(single.checked) });
    single.checked = !off();
    dialog.append(groups, el("p", {}, el("label", {}, single, " Single keys act")), el("form", { method: "dialog" }, el("button", { class: "primary" }, "Close")));
    document.body.append(dialog);
  }
  dialog.showModal();
}
