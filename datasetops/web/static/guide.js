// What the guide says about a class: its definition at once, the rest on demand.
import { el, harmless } from "./dom.js";

export function drawGuide(place, html) {
  const text = harmless(html);
  const definition = text.querySelector("p");
  if (definition?.previousElementSibling?.tagName === "H3") definition.previousElementSibling.remove();
  definition?.remove();
  const rest = [...text.children].length ? el("details", {}, el("summary", {}, "What counts, and edge cases"), text) : null;
  place.replaceChildren(...[definition, rest].filter(Boolean));
}
