// Blind QA: an image and a question, item after item. What labels the item has is nowhere on this page.
import { get, media, newId, Outbox, path, showWaiting } from "./api.js";
import { chooseClass } from "./bar.js";
import { data, el, key, say, swatch, toast } from "./dom.js";
import { drawGuide } from "./guide.js";
import { bindKeys, keyOf, numbered } from "./keys.js";
import { Viewer } from "./viewer.js";

const plan = data();
const address = `/api/qa/${encodeURIComponent(plan.plan)}`;
const viewer = new Viewer(document.getElementById("stage"));
const outbox = new Outbox();
const regions = plan.kinds.some((kind) => kind === "box"); // boxes are marked, with their classes
const several = regions || plan.multi_label;
const colours = new Map(plan.classes.map((one) => [one.name, one.colour]));
const fitting = (kind) => plan.classes.filter((one) => !one.kinds?.length || one.kinds.includes(kind));
const classes = fitting(regions ? "box" : "classification");
const numbers = numbered(classes);
const chosen = new Set(); // of several classes of one image
const answered = []; // items of this sitting, the newest last
let item = plan;

showWaiting(outbox);

const answers = document.getElementById("answers");
const decide = document.getElementById("decide");
const told = document.getElementById("told");
const buttons = new Map();

function build() {
  document.getElementById("hint").textContent = regions
    ? "Choose a class, then drag a box around each object (Shift + Enter puts one in the middle). Nothing there? Save without boxes."
    : plan.multi_label ? "Choose every class that holds, then save." : "Choose with the mouse or by number; the next item comes at once.";
  const group = el("div", { class: "answers", role: "group", "aria-labelledby": "question" });
  for (const one of classes.slice(0, 60)) {
    const button = el("button", { type: "button", "aria-pressed": several ? "false" : null, "data-class": one.name, onclick: () => choose(one.name) },
      keyOf(numbers, one) && key(keyOf(numbers, one)), swatch(one.colour), el("span", {}, one.name));
    buttons.set(one.name, button);
    group.append(button);
  }
  answers.append(group);
  if (classes.length > 10) answers.append(el("p", {}, el("button", { type: "button", onclick: () => chooseClass(classes, choose) }, "Search ", key("c"))));
  const actions = el("div", { class: "actions", role: "group", "aria-label": "Answer" });
  if (several) actions.append(el("button", { type: "button", class: "primary", "data-action": "save", onclick: save }, el("span", { class: "long" }, "Save and go on"), el("span", { class: "short" }, "Save"), key("Enter")));
  if (regions) actions.append(
    el("button", { type: "button", "data-action": "draw", "aria-pressed": "false", onclick: () => viewer.boxes.toggleDraw() }, "Draw", key("d")),
    el("button", { type: "button", onclick: () => viewer.boxes.delete() }, "Delete", key("Del")));
  actions.append(el("button", { type: "button", "data-action": "unsure", onclick: () => send({ unsure: true }, "Unsure") }, "Unsure", key("u")),
    el("span", { class: "push" }), el("button", { type: "button", class: "undo", "data-action": "back", onclick: back }, "Answer the last again", key("z")));
  decide.append(actions);
}

function show(next) {
  item = next;
  chosen.clear();
  mark();
  const has = Boolean(item.sample_id);
  document.querySelector("[data-done]").textContent = item.done;
  document.querySelector("[data-left]").textContent = item.left;
  const bar = document.querySelector("#blind-progress progress");
  bar.max = Math.max(1, item.done + item.left);
  bar.value = item.done;
  const apart = [item.own ? `${item.own} left out since you labeled them yourself.` : "", item.with_others ? `${item.with_others} with other reviewers now.` : ""].filter(Boolean).join(" ");
  told.hidden = !apart && has;
  told.textContent = has ? apart : `Nothing is left for you to check in this plan. ${apart}`;
  for (const place of [answers, decide, document.getElementById("hint"), document.getElementById("question")]) place.hidden = !has;
  viewer.show({ src: has ? `${media}/full/${path(item.sample_id)}` : null, alt: "The item to check", annotations: [], colour: (label) => colours.get(label) });
  viewer.missing.textContent = has ? viewer.missing.textContent : "";
  if (has && regions) {
    viewer.boxes.start([], { label: viewer.boxes.label || classes[0]?.name, many: true });
    viewer.boxes.toggleDraw();
  }
  say(has ? plan.question : told.textContent);
}

function mark() {
  if (!several) return;
  for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(regions ? name === (viewer.boxes.selected?.label ?? viewer.boxes.label) : chosen.has(name)));
}
viewer.boxes.addEventListener("change", () => {
  mark();
  document.querySelector('[data-action="draw"]')?.setAttribute("aria-pressed", String(viewer.boxes.drawing));
});
function choose(name) {
  if (!several) return void send({ label: name }, name);
  if (regions) {
    viewer.boxes.at = -1; // of the next box; one that is there is renamed through [ ] and the class search
    viewer.boxes.name(name);
    if (!viewer.boxes.drawing) viewer.boxes.toggleDraw();
  } else if (!chosen.delete(name)) chosen.add(name);
  mark();
}
function save() {
  if (regions) send({ regions: viewer.boxes.regions() }, `${viewer.boxes.regions().length} marked`);
  else send({ labels: [...chosen] }, [...chosen].join(", ") || "no class");
}
function send(answer, words) {
  if (!item.sample_id) return;
  const sample = item.sample_id;
  answered.push(sample);
  item = { ...item, sample_id: null };
  outbox.put(`${address}/verdicts`, { decision_id: newId(), sample_id: sample, ...answer });
  toast(`Answered: ${words}`, { name: "decided", seconds: 3 });
}
// The answer that was given stands until another one is; both stay in the record.
function back() {
  const sample = answered.pop();
  if (!sample) return void toast("Nothing was answered on this page yet", { name: "lacking", seconds: 3 });
  show({ ...item, sample_id: sample });
  toast("Answer this one again", { name: "decided", seconds: 5 });
}
async function next() {
  try {
    show(await get(`${address}/next`));
  } catch (error) {
    toast(error.message, { bad: true });
    setTimeout(next, 2000);
  }
}
outbox.addEventListener("taken", ({ detail }) => {
  if (detail.answer.words) toast(detail.answer.words, { seconds: 8 });
  if (!item.sample_id) next();
});
outbox.addEventListener("refused", ({ detail }) => {
  toast(`Not taken: ${detail.words}`, { bad: true, seconds: 12 });
  next();
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
bindKeys({
  any(event, name) {
    const arrow = ARROWS[event.key];
    if (name === "space") return event.target.closest("button, a, summary, input") ? null : () => void (viewer.panning = true);
    if (arrow && viewer.panning) return () => viewer.pan(-60 * arrow[0], -60 * arrow[1]);
    if (arrow && regions && viewer.boxes.selected) return () => viewer.boxes.nudge(...arrow.map((step) => step * (event.altKey ? 10 : 1)), event.shiftKey);
    if (arrow && event.shiftKey) return () => viewer.pan(-60 * arrow[0], -60 * arrow[1]);
    return null;
  },
  digit: (event) => {
    const one = numbers.get(event.key);
    if (one) choose(one.name);
  },
  search: () => chooseClass(classes, (name) => (regions && viewer.boxes.selected ? viewer.boxes.name(name) : choose(name))),
  unsure: () => send({ unsure: true }, "Unsure"),
  undo: back,
  previous: back,
  enter: (event) => (regions && event.shiftKey ? viewer.boxes.drawInTheMiddle() : several ? save() : false),
  draw: () => regions && viewer.boxes.toggleDraw(),
  delete: () => viewer.boxes.delete(),
  before: () => viewer.boxes.step(-1),
  after: () => viewer.boxes.step(1),
  in: () => viewer.zoom(1.4),
  out: () => viewer.zoom(1 / 1.4),
  whole: () => viewer.fit(),
  smooth: () => viewer.toggleSmooth(),
});
document.addEventListener("keyup", (event) => event.key === " " && (viewer.panning = false));

for (const place of document.querySelectorAll("[data-guide]")) drawGuide(place, plan.guide[place.dataset.guide].html);
build();
show(plan);
