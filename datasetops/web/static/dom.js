// Small helpers for the page. What comes from the server as data is put in as text only.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function swatch(colour) {
  return svg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { width: 10, height: 10, rx: 2, fill: colour || "#888888" }));
}

export const key = (name) => el("kbd", { "aria-hidden": "true" }, name);

export function data() {
  return JSON.parse(document.getElementById("data")?.textContent || "null");
}

export function say(words) {
  const live = document.getElementById("live");
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = words));
}

// A message that goes by itself; `actions` are [words, key, function].
export function toast(words, { actions = [], bad = false, seconds = 6, name = "" } = {}) {
  const place = document.getElementById("toasts");
  if (name) for (const old of place.querySelectorAll(`[data-name="${name}"]`)) old.remove();
  const made = el("div", { class: bad ? "toast bad" : "toast", "data-name": name || null }, el("span", {}, words));
  for (const [label, shortcut, act] of actions) {
    made.append(
      el("button", { type: "button", onclick: () => (made.remove(), act()) }, label, shortcut ? key(shortcut) : null),
    );
  }
  place.append(made);
  while (place.children.length > 3) place.firstElementChild.remove();
  setTimeout(() => made.remove(), seconds * 1000);
  return made;
}

const ALLOWED = new Set("P,H1,H2,H3,H4,H5,H6,UL,OL,LI,STRONG,EM,B,I,CODE,PRE,BLOCKQUOTE,TABLE,THEAD,TBODY,TR,TH,TD,BR,HR,DL,DT,DD,A,IMG".split(","));

// Elements of a guide's HTML that are known to be harmless, without their attributes; other elements become their text.
export function harmless(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const copy = (from, to) => {
    for (const node of from.childNodes) {
      if (node.nodeType === Node.TEXT_NODE) to.append(node.data);
      else if (node.nodeType === Node.ELEMENT_NODE && !["SCRIPT", "STYLE", "TEMPLATE", "IFRAME"].includes(node.tagName)) {
        if (!ALLOWED.has(node.tagName)) {
          copy(node, to);
          continue;
        }
        const heading = /^H[1-6]$/.test(node.tagName); // the page has its own outline
        const made = document.createElement(heading ? "h3" : node.tagName);
        if (node.tagName === "IMG") {
          const source = node.getAttribute("src") || "";
          if (!/^(\/media\/|data:image\/(png|jpeg|webp);)/.test(source)) continue;
          made.src = source;
          made.alt = node.getAttribute("alt") || "";
        }
        if (node.tagName === "A" && /^https?:\/\//.test(node.getAttribute("href") || "")) {
          made.href = node.getAttribute("href");
          made.rel = "noreferrer noopener";
          made.target = "_blank";
        }
        copy(node, made);
        to.append(made);
      }
    }
  };
  const fragment = document.createDocumentFragment();
  copy(parsed.body, fragment);
  return fragment;
}
