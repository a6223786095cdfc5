// The queue: filters in the address, list and grid, selection and decisions on many at once.
import { actor, api, get, getPage, newId, Outbox, showWaiting } from "./api.js";
import { chooseClass } from "./bar.js";
import { el, key, say, toast } from "./dom.js";
import { bindKeys } from "./keys.js";
import { showProgress, watch } from "./live.js";

const BULK = [["keep", "k", "Keep"], ["suggestion", "s", "Take suggestion"], ["label", "c", "Class …"], ["exclude", "x", "Exclude"], ["relabel", "r", "Relabel"], ["unsure", "u", "Unsure"]];
const NAMES = { search: "search", min_score: "score from", max_score: "score to", like: "looks like" };
const outbox = new Outbox();
const selected = new Set();
const done = [];
let anchor = null; // where a range begins
let at = 0; // the row that has the focus

showWaiting(outbox);

const results = () => document.getElementById("results");
const rows = () => [...document.querySelectorAll("#items > li")];
const link = (row) => row?.querySelector("a.open");
const isGrid = () => document.getElementById("items").classList.contains("grid");

// --- the page ---------------------------------------------------------------------------------------------------------

let asked = 0;
async function go(address, { push = true, quiet = false } = {}) {
  const mine = ++asked;
  results().setAttribute("aria-busy", "true");
  let page;
  try {
    page = new DOMParser().parseFromString(await getPage(address), "text/html");
  } catch (error) {
    if (!quiet) toast(error.message, { bad: true });
    results().removeAttribute("aria-busy");
    return;
  }
  if (mine !== asked) return; // a later question came meanwhile
  const focused = document.activeElement;
  const name = focused?.id;
  const inItems = document.getElementById("items").contains(focused);
  for (const id of ["facets", "results"]) document.getElementById(id).replaceWith(document.adoptNode(page.getElementById(id)));
  document.getElementById("facets-box").querySelectorAll("form").forEach(bindForm);
  if (push) history.pushState(null, "", address);
  if (inItems) {
    at = Math.min(at, rows().length - 1);
    link(rows()[at])?.focus();
  } else if (name && focused !== document.activeElement) document.getElementById(name)?.focus();
  draw();
  if (!quiet) say(results().querySelector("h1").textContent);
}

function bindForm(form) {
  const parameters = new URLSearchParams(location.search);
  for (const name of ["search", "min_score", "max_score"]) form.elements[name].value = parameters.get(name) || "";
  form.elements.like.value = parameters.get("like") || "";
  form.elements.like.disabled = !parameters.get("like");
  form.addEventListener("change", () => form.requestSubmit());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const pairs = [...new FormData(form)].filter(([name, value]) => value !== "" && !(name === "decided" && value === "no") && !(name === "view" && value === "list"));
    const shown = new Set([...form.elements].map((one) => `${one.name}=${one.value}`));
    for (const [name, value] of new URLSearchParams(location.search)) // chosen, and no longer among the values that are listed
      if (!["page", "view", "decided"].includes(name) && !form.elements[name]?.value && !shown.has(`${name}=${value}`)) pairs.push([name, value]);
    selected.clear();
    go(`${location.pathname}?${new URLSearchParams(pairs)}`);
  });
}

// Filters in the address, as pairs of name and value.
const filtered = () => [...new URLSearchParams(location.search)].filter(([name]) => !["view", "page", "decided"].includes(name));

function drawActive() {
  const place = document.getElementById("active");
  const parameters = filtered();
  place.hidden = !parameters.length;
  place.replaceChildren(...parameters.map(([name, value]) =>
    el("button", { type: "button", "aria-label": `Remove the filter ${name} ${value}`, onclick: () => {
      const left = new URLSearchParams(location.search);
      left.delete(name, value);
      left.delete("page");
      go(`${location.pathname}?${left}`);
    } }, `${NAMES[name] || name}: ${value.length > 40 ? `${value.slice(0, 40)}…` : value}`, el("span", { "aria-hidden": "true" }, "×"))));
}

async function drawState() {
  let progress;
  try {
    progress = await get(`${api}/progress`);
  } catch {
    return;
  }
  showProgress(progress);
  const { agreement, errors_left: left } = progress;
  const sure = left?.bound ? `, with ${Math.round(100 * left.confidence)} % confidence between ${Math.floor(left.low).toLocaleString("en")} and ${Math.ceil(left.high).toLocaleString("en")}` : "";
  const words = (progress.reviewers || []).map((one) => `${one.name}: ${one.decided.toLocaleString("en")} decided${one.per_minute ? `, ${one.per_minute.toFixed(one.per_minute < 10 ? 1 : 0)} a minute` : ""}.`);
  if (agreement) words.push(`Reviewers agree on ${agreement.agree} of ${agreement.items}.`);
  const place = document.getElementById("state");
  place.replaceChildren(
    left ? `About ${Math.round(left.estimate).toLocaleString("en")} ${Math.round(left.estimate) === 1 ? "error" : "errors"} left${filtered().length ? " in the whole queue" : ""}${sure}. ` : "",
    el("span", { class: "basis" }, left && !left.bound ? `${left.basis} ` : ""),
    words.join(" "));
  if (left?.basis) place.title = left.basis;
}

// --- selection --------------------------------------------------------------------------------------------------------

function draw() {
  const all = rows();
  for (const [index, row] of all.entries()) {
    const on = selected.has(row.dataset.id);
    row.querySelector(".pick").checked = on;
    row.classList.toggle("selected", on);
    link(row).tabIndex = index === at ? 0 : -1; // the list is one stop of the Tab key; arrows go through it
    const image = row.querySelector("img");
    const crisp = () => image.classList.toggle("pixelated", image.naturalWidth > 0 && image.naturalWidth < image.clientWidth / 1.5);
    if (image.complete) crisp();
    else image.onload = crisp;
  }
  if (all.length && !all[at]) link(all[(at = 0)]).tabIndex = 0;
  drawActive();
  drawBulk();
}

function drawBulk() {
  const bulk = document.getElementById("bulk");
  bulk.hidden = !selected.size;
  document.body.classList.toggle("has-bulk", !bulk.hidden);
  if (bulk.hidden) return;
  if (!bulk.childElementCount) {
    bulk.append(
      el("p", { class: "bulk-count" }),
      el("div", { class: "actions", role: "group", "aria-label": "Decide on the selection" },
        ...BULK.map(([name, shortcut, words]) => el("button", { type: "button", class: name === "suggestion" ? "primary" : null, "data-action": name, onclick: () => decide(name) }, words, key(shortcut))),
        el("button", { type: "button", onclick: clear }, "Clear", key("Esc"))));
  }
  bulk.querySelector(".bulk-count").textContent = `${selected.size} selected`;
}

function clear() {
  selected.clear();
  anchor = null;
  draw();
}

function pick(index, { range = false } = {}) {
  const all = rows();
  const row = all[index];
  if (!row) return;
  if (range && anchor !== null) {
    const [low, high] = [Math.min(anchor, index), Math.max(anchor, index)];
    for (const one of all.slice(low, high + 1)) selected.add(one.dataset.id);
  } else {
    const id = row.dataset.id;
    if (!selected.delete(id)) selected.add(id);
    anchor = index;
  }
  at = index;
  draw();
  say(`${selected.size} selected`);
}

function focusRow(index, extend = false) {
  const all = rows();
  if (!all.length) return;
  if (extend) {
    if (anchor === null) {
      anchor = at;
      selected.add(all[at].dataset.id);
    }
    selected.add(all[Math.min(Math.max(index, 0), all.length - 1)].dataset.id);
  }
  at = Math.min(Math.max(index, 0), all.length - 1);
  draw();
  link(all[at]).focus();
  all[at].scrollIntoView({ block: "nearest" });
}

function columns() {
  const all = rows();
  if (!isGrid() || !all.length) return 1;
  const top = all[0].offsetTop;
  const found = all.findIndex((row) => row.offsetTop !== top);
  return found < 0 ? all.length : found;
}

// --- decisions --------------------------------------------------------------------------------------------------------

async function decide(action, extra = {}) {
  const ids = [...selected];
  if (!ids.length) return void toast("Select something first: Space on an item, or a for all on the page", { name: "lacking", seconds: 4 });
  if (action === "label" && !extra.label) {
    try {
      const { classes } = await get(`${api}/findings/${encodeURIComponent(ids[0])}`);
      chooseClass(classes, (label) => decide("label", { label }));
    } catch (error) {
      toast(error.message, { bad: true });
    }
    return;
  }
  done.push({ ids, name: outbox.put(`${api}/decisions`, { decision_id: newId(), finding_ids: ids, action, ...extra }) });
  for (const row of rows()) if (selected.has(row.dataset.id)) row.classList.add("leaving");
  clear();
  const words = { keep: "kept as they are", suggestion: "get what is suggested", label: `become ${extra.label}`, exclude: "excluded", relabel: "sent to relabeling", unsure: "marked unsure" }[action];
  toast(`${ids.length} ${words}`, { name: "decided", seconds: 8, actions: [["Undo", "z", undo]] });
}

function undo() {
  const last = done.pop();
  if (!last) return void toast("There is nothing to undo", { name: "lacking", seconds: 3 });
  if (outbox.drop(last.name)) refresh();
  else outbox.put(`${api}/undo`, { finding_ids: last.ids });
  toast("Undone", { name: "decided", seconds: 3 });
}

function refresh() {
  go(location.href, { push: false, quiet: true });
  drawState();
}
outbox.addEventListener("taken", ({ detail }) => {
  const refused = detail.answer.refused || [];
  if (refused.length) toast(`${refused.length} not taken: ${refused[0].words}`, { bad: true, seconds: 12 });
  refresh();
});
outbox.addEventListener("refused", ({ detail }) => {
  const first = detail.answer?.refused?.[0];
  toast(`Not taken: ${first?.words || detail.words}`, { bad: true, seconds: 12 });
  refresh();
});

// The first item that nobody else has in hand.
async function begin(start) {
  const parameters = new URLSearchParams(location.search);
  for (const name of ["page", "view"]) parameters.delete(name);
  try {
    const { finding_id: id } = await get(`${api}/next?${parameters}`);
    if (id) start.href = start.href.replace(/\/review\/[^/?]+/, `/review/${encodeURIComponent(id)}`);
    sessionStorage.setItem("dsops.begin", "1"); // the item view goes on by itself if somebody else was quicker
  } catch {
    // the first of the list it is
  }
  location.href = start.href;
}

// --- hands ------------------------------------------------------------------------------------------------------------

document.getElementById("main").addEventListener("click", (event) => {
  const box = event.target.closest(".pick");
  const index = rows().findIndex((row) => row.contains(event.target));
  if (box) return pick(index, { range: event.shiftKey }); // before the next key
  if (index >= 0 && (event.shiftKey || event.ctrlKey || event.metaKey) && event.target.closest("li")) {
    event.preventDefault();
    pick(index, { range: event.shiftKey });
    return;
  }
  const start = event.target.closest("#start");
  if (start && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    begin(start);
    return;
  }
  const swap = event.target.closest("a[data-swap]");
  if (swap && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    at = 0;
    go(swap.href).then(() => scrollTo(0, 0));
  }
});
document.getElementById("main").addEventListener("focusin", (event) => {
  const index = rows().findIndex((row) => row.contains(event.target));
  if (index >= 0 && index !== at) {
    at = index;
    draw();
  }
});
addEventListener("popstate", () => go(location.href, { push: false }));

const inList = (event) => event.target.closest?.("#items") || event.target === document.body || event.target.id === "main";
const step = (by) => (event) => (inList(event) && !event.altKey ? void focusRow(document.getElementById("items").contains(document.activeElement) ? at + by() : at, event.shiftKey) : false);
bindKeys({
  any(event, name) {
    // Space and Enter on an item's link: the first selects it, the second opens it as links do.
    return name === "space" && event.target.closest("a.open") ? () => pick(at, { range: event.shiftKey }) : null;
  },
  next: (event) => step(() => 1)(event),
  previous: (event) => step(() => -1)(event),
  up: (event) => step(() => -columns())(event),
  down: (event) => step(() => columns())(event),
  enter: () => (rows().length ? void link(rows()[at]).click() : false),
  all: () => {
    for (const row of rows()) selected.add(row.dataset.id);
    draw();
    say(`${selected.size} selected`);
  },
  cancel: clear,
  grid: () => void document.getElementById(isGrid() ? "view-list" : "view-grid").click(),
  keep: () => void decide("keep"),
  suggestion: () => void decide("suggestion"),
  search: () => void decide("label"),
  exclude: () => void decide("exclude"),
  relabel: () => void decide("relabel"),
  unsure: () => void decide("unsure"),
  undo: () => undo(),
});

bindForm(document.getElementById("facets"));
if (matchMedia("(max-width: 900px)").matches) document.getElementById("facets-box").open = false;
draw();
drawState();
watch(({ decided }) => {
  // What others decided stays where it is, marked, so that nothing moves under the pointer.
  for (const one of decided.filter((decision) => decision.actor !== actor)) {
    const row = rows().find((each) => each.dataset.id === one.finding_id);
    if (!row) continue;
    selected.delete(one.finding_id);
    row.classList.add("leaving");
    row.querySelector("[data-live]")?.remove();
    row.querySelector(".meta").append(el("span", { class: "badge good", "data-live": "" }, `${one.actor}: ${one.verdict}`));
  }
  draw();
});
