// The item view: one finding after the other, decided by key or button.
import { Ahead, openPage } from "./ahead.js";
import { actor, api, get, media, newId, Outbox, path, showWaiting, version } from "./api.js";
import { Bar } from "./bar.js";
import { besides } from "./beside.js";
import { data, el, say, toast } from "./dom.js";
import { drawGuide } from "./guide.js";
import { bindKeys, numbered, showKeys } from "./keys.js";
import { showProgress, watch } from "./live.js";
import { Viewer } from "./viewer.js";

const REMEMBERED = 30; // pages that can be gone back to without the server
const RENEW = 40_000; // milliseconds; the server holds an item for 90 seconds
const base = `/v/${encodeURIComponent(version)}/review`;
const query = location.search.replace(/^\?/, "");
const address = (id) => `${base}/${encodeURIComponent(id)}${query ? `?${query}` : ""}`;
const list = `${base}${query ? `?${query}` : ""}`;

const panel = document.getElementById("panel");
const stage = document.getElementById("stage");
const viewer = new Viewer(stage);
const outbox = new Outbox();
const ahead = new Ahead(query);
const bar = new Bar(document.getElementById("decide"), { decide, undo: () => undo(), edit, next, previous, saveEdit, stopEdit, draw: () => viewer.boxes.toggleDraw(), remove: () => viewer.boxes.delete(), name: (label) => viewer.boxes.name(label) });
const trail = []; // ids in the order in which they were seen, for the way back
const seen = new Map(); // pages by id, newest last
const done = []; // {ids, name}: what can be undone
let item = null;
let progress = null;
let since = performance.now();

showWaiting(outbox);

function show(page, { push = true, back = false } = {}) {
  if (item && !back && item.finding.finding_id !== page.id) trail.push(item.finding.finding_id);
  document.body.classList.remove("finished");
  if (item?.sample?.sample_id && item.sample.sample_id === page.data.sample?.sample_id)
    setTimeout(() => item.finding.finding_id === page.id && ahead.renew(page.id), 600); // the decision before let go of the image
  item = page.data;
  since = performance.now();
  seen.delete(page.id);
  seen.set(page.id, page);
  if (seen.size > REMEMBERED) seen.delete(seen.keys().next().value);
  if (!page.fresh) {
    const focused = panel.contains(document.activeElement);
    panel.replaceChildren(...page.panel.cloneNode(true).childNodes);
    panel.dataset.finding = page.id;
    panel.scrollTop = 0;
    document.title = page.title;
    if (push) history.pushState({ id: page.id }, "", address(page.id));
    if (focused) panel.focus({ preventScroll: true });
  }
  for (const place of panel.querySelectorAll("[data-guide]")) drawGuide(place, item.guide[place.dataset.guide].html);
  drawHistory(page.id);
  const colours = new Map(item.classes.map((one) => [one.name, one.colour]));
  const sample = item.sample || {};
  for (const one of item.annotations) one.mentioned = !one.subject && item.finding.message.includes(one.annotation_id); // say, the other of two boxes
  viewer.show({
    src: sample.sample_id ? `${media}/full/${path(sample.sample_id)}` : null,
    image: page.image,
    alt: `${sample.name || sample.sample_id}`,
    width: sample.width,
    height: sample.height,
    annotations: item.annotations,
    proposal: item.suggestion?.fix || null,
    box: item.finding.box,
    maskBase: `${media}/mask`,
    colour: (label) => colours.get(label),
  });
  bar.show(item);
  say(item.finding.message);
  ahead.after(page.id);
}

async function drawHistory(id) {
  const place = document.getElementById("history");
  if (!place || !place.hidden) return;
  await new Promise((resolve) => setTimeout(resolve, 250)); // not while somebody decides at full speed
  if (item.finding.finding_id !== id || !place.isConnected) return;
  let told;
  try {
    told = (await get(`${api}/findings/${encodeURIComponent(id)}/history`)).history;
  } catch {
    return;
  }
  place.hidden = !told?.length;
  place.querySelector("ol").replaceChildren(...(told || []).map((one) =>
    el("li", {}, one.words, " ", el("span", { class: "soft" }, [one.actor, one.version, one.time?.slice(0, 10)].filter(Boolean).join(" · ")))));
}

function decide(action, extra = {}) {
  const lacking = bar.lacking(action);
  if (lacking) return void toast(lacking, { name: "lacking", seconds: 3 });
  if (document.body.classList.contains("finished")) return;
  const id = item.finding.finding_id;
  const body = { decision_id: newId(), finding_ids: [id], action, seconds: Math.round(performance.now() - since) / 1000, ...extra };
  const note = bar.takeNote();
  if (note) body.note = note;
  const first = !item.decisions.some((one) => one.actor === actor) && !done.some((one) => one.ids.includes(id));
  done.push({ ids: [id], name: outbox.put(`${api}/decisions`, body) });
  if (first && action !== "unsure") count(1);
  ahead.skip(id);
  toast(inWords(action, extra), { name: "decided", actions: [["Undo", "z", undo]] });
  next();
}

function inWords(action, { label, fix }) {
  const { given, suggested } = item.finding;
  if (action === "keep") return given ? `Kept ${given}` : "Kept as it is";
  if (action === "suggestion") return item.suggestion.words || `Took ${suggested}`;
  if (action === "label") return given ? `${given} becomes ${label}` : `Becomes ${label}`;
  if (action === "edit") return `Fixed: ${fix.put.length} changed or drawn, ${fix.remove.length} deleted`;
  return { exclude: "Image excluded", relabel: "Sent to relabeling", unsure: "Unsure" }[action];
}

function count(by) {
  if (!progress) return;
  progress = { ...progress, decided: progress.decided + by, left: progress.left - by };
  showProgress(progress);
}

let undoing = Promise.resolve();
const undo = () => (undoing = undoing.then(undoLast)); // one after the other

async function undoLast() {
  const last = done.pop();
  if (!last) return void toast("There is nothing to undo", { name: "lacking", seconds: 3 });
  ahead.unskip(last.ids);
  const before = seen.get(last.ids[0]); // at once: the next key must not decide about another item
  if (before) show({ ...before, fresh: false }, { back: true });
  if (!outbox.drop(last.name)) {
    const name = outbox.put(`${api}/undo`, { finding_ids: last.ids });
    await settled(name);
  }
  toast("Undone", { name: "decided", seconds: 3 });
  if (before && !before.data.decisions.length) ahead.renew(last.ids[0]);
  else await open(last.ids[0], { back: true });
  refreshProgress();
}

// Until the server has taken something, or a second has gone by.
function settled(name) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000);
    for (const kind of ["taken", "refused"])
      outbox.addEventListener(kind, ({ detail }) => {
        if (detail.name !== name) return;
        clearTimeout(timer);
        resolve();
      });
  });
}

async function open(id, options = {}) {
  try {
    show(await openPage(id, query), options);
  } catch (error) {
    if (seen.has(id)) show({ ...seen.get(id), fresh: false }, options); // as it was, while the server is away
    else toast(error.message, { bad: true });
  }
}

let going = false;
async function next() {
  if (going) return;
  going = true;
  try {
    const page = await ahead.take(item.finding.finding_id);
    if (page) show(page);
    else finish();
  } catch (error) {
    finish(error.message);
  } finally {
    going = false;
  }
}

function previous() {
  const id = trail.pop() || item.previous;
  if (id) open(id, { back: true });
  else toast("This is the first", { name: "lacking", seconds: 3 });
}

// Nothing comes after: all is decided, or the server does not answer.
async function finish(trouble = "") {
  document.body.classList.add("finished");
  viewer.show({ src: null, annotations: [] });
  const words = el("div", { class: "finish" });
  if (trouble) {
    words.append(el("h1", {}, "Waiting for the server"), el("p", {}, `${trouble} Your decisions are kept. It goes on by itself.`));
    setTimeout(() => document.body.classList.contains("finished") && (ahead.reset(), next()), 2000);
  } else {
    words.append(el("h1", {}, "The end of this queue"), el("p", {}, "Nothing is left after this item that is undecided and not with somebody else."));
    words.append(el("p", { class: "toolbar" },
      el("button", { type: "button", onclick: () => (ahead.restart(), next()) }, "Go through what was passed over"),
      el("a", { class: "button", href: list }, "Back to the list"),
      el("button", { type: "button", onclick: undo }, "Undo the last")));
    words.append(el("p", { class: "soft" }, "Decisions become a new version by: ", el("code", {}, `dsops review apply ${version}`)));
    say("The end of this queue");
  }
  panel.replaceChildren(words);
  viewer.missing.textContent = "";
  bar.rest();
}

// Fixing boxes.
function edit() {
  const lacking = bar.lacking("edit");
  if (lacking) return void toast(lacking, { name: "lacking", seconds: 3 });
  const { given, suggested, check } = item.finding;
  const missing = item.annotations.every((one) => !one.subject);
  const proposal = item.suggestion?.fix?.kind === "edit" && ["missing_box", "misplaced_box"].includes(check) ? item.suggestion.fix : null;
  for (const old of document.querySelectorAll('.toast[data-name="decided"]')) old.remove(); // it covers a part of the image
  viewer.boxes.start(item.annotations, { proposal, label: (missing && suggested) || given || suggested || item.classes[0]?.name });
  bar.editing(true, viewer.boxes);
  stage.focus({ preventScroll: true });
  say("Fixing boxes. Arrows move, shift and arrows resize, Enter saves, Escape leaves.");
}
function saveEdit() {
  const fix = viewer.boxes.fix();
  if (!fix) return void toast("Nothing was changed yet", { name: "lacking", seconds: 3 });
  if (fix.put.some((one) => one.annotation_id === null && !one.label)) return void toast("Choose a class for what was drawn", { name: "lacking" });
  stopEdit();
  decide("edit", { fix });
}
function stopEdit() {
  viewer.boxes.stop();
  viewer.stage.style.cursor = "";
  viewer.draw();
  bar.editing(false);
}
viewer.boxes.addEventListener("change", () => bar.selected(viewer.boxes));

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const view = {
  in: () => viewer.zoom(1.4),
  out: () => viewer.zoom(1 / 1.4),
  whole: () => viewer.fit(),
  focus: () => viewer.focus(),
  overlay: () => say(`Outlines: ${viewer.nextOverlay()}`),
  smooth: () => viewer.toggleSmooth(),
};
const editing = {
  before: () => viewer.boxes.step(-1),
  after: () => viewer.boxes.step(1),
  draw: () => viewer.boxes.toggleDraw(),
  delete: () => viewer.boxes.delete(),
  enter: () => (viewer.boxes.drawing ? viewer.boxes.drawInTheMiddle() : saveEdit()),
  cancel: stopEdit,
  search: () => bar.search((label) => viewer.boxes.name(label)),
  digit: (event) => {
    const one = numbered(item.classes).get(event.key);
    if (one) viewer.boxes.name(one.name);
  },
};
bindKeys({
  any(event, name) {
    const arrow = ARROWS[event.key];
    const control = event.target.closest?.("button, a, summary, input");
    if (name === "space") return control ? null : () => void (viewer.panning = true);
    if (name === "enter" && control) return null;
    if (arrow && viewer.panning) return () => viewer.pan(-60 * arrow[0], -60 * arrow[1]);
    if (viewer.boxes.active) {
      if (arrow) return () => viewer.boxes.nudge(...arrow.map((step) => step * (event.altKey ? 10 : 1)), event.shiftKey);
      return view[name] || (name === "help" ? null : editing[name] || (() => false));
    }
    if (event.altKey) return () => false;
    if (arrow && event.shiftKey) return () => viewer.pan(-60 * arrow[0], -60 * arrow[1]);
    return null;
  },
  ...view,
  keep: () => decide("keep"),
  suggestion: () => decide("suggestion"),
  exclude: () => decide("exclude"),
  relabel: () => decide("relabel"),
  unsure: () => decide("unsure"),
  digit: (event) => {
    const one = numbered(item.classes).get(event.key);
    if (one) decide("label", { label: one.name });
    else if (event.key === "0") viewer.fit();
  },
  search: () => (bar.lacking("label") ? decide("label") : bar.search((label) => decide("label", { label }))),
  edit,
  note: () => bar.openNote(),
  undo,
  next,
  previous,
  grid: () => void (location.href = list),
  cancel: () => bar.takeNote(),
});
document.addEventListener("keyup", (event) => event.key === " " && (viewer.panning = false));

panel.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("[data-do], [data-open], [data-annotation], [data-beside]");
  if (!link) return;
  event.preventDefault();
  if (link.dataset.do === "grid") location.href = list;
  else if (link.dataset.do === "keys") showKeys();
  else if (link.dataset.do === "next") next();
  else if (link.dataset.do === "previous") previous();
  else if (link.dataset.open) open(link.dataset.open);
  else if (link.dataset.annotation) viewer.highlight(link.dataset.annotation);
  else besides(link, item);
});
addEventListener("popstate", () => {
  const id = decodeURIComponent(location.pathname.split("/").pop());
  open(id, { push: false, back: true });
});

outbox.addEventListener("taken", ({ detail }) => {
  if (detail.answer.progress) showProgress((progress = detail.answer.progress));
  if (detail.answer.refused?.length) refused(detail, detail.answer.refused);
});
outbox.addEventListener("refused", ({ detail }) => refused(detail, detail.answer?.refused));
function refused({ body, address: to, words }, refusals) {
  const [first] = refusals || [];
  const at = done.findIndex((one) => one.ids.includes(body.finding_ids?.[0]));
  if (at >= 0) done.splice(at, 1);
  const actions = [["Open", "", () => open(body.finding_ids[0])]];
  if (first && body.action) actions.push(["Decide all the same", "", () => outbox.put(to, { ...body, decision_id: newId(), second: true })]);
  toast(`Not taken: ${first?.words || words}`, { bad: true, seconds: 15, actions: body.finding_ids ? actions : [] });
  refreshProgress();
}

async function refreshProgress() {
  try {
    showProgress((progress = await get(`${api}/progress`)));
  } catch {
    // the bar says it
  }
}

watch(({ decided, holding }) => {
  const others = decided.filter((one) => one.actor !== actor);
  ahead.decided(others.map((one) => one.finding_id));
  const notices = document.getElementById("notices");
  const mine = others.find((one) => one.finding_id === item.finding.finding_id);
  const holder = holding[item.sample?.sample_id];
  if (!notices) return;
  notices.querySelector("[data-live]")?.remove();
  if (mine) notices.append(el("p", { class: "notice", "data-live": "" }, el("b", {}, mine.actor), ` has just decided this: ${mine.words}.`));
  else if (holder && holder !== actor) notices.append(el("p", { class: "notice", "data-live": "" }, `${holder} is looking at this item now.`));
}, (fresh) => (progress = fresh));
setInterval(() => document.hidden || ahead.renew(item.finding.finding_id), RENEW);

show({ id: panel.dataset.finding, data: data(), panel: panel.cloneNode(true), title: document.title, fresh: true }, { push: false });
refreshProgress();
try {
  if (sessionStorage.getItem("dsops.begin") && item.held_by) next();
  sessionStorage.removeItem("dsops.begin");
} catch {
  // storage is switched off
}
