// Two images side by side: the item's and one that it resembles.
import { media, path } from "./api.js";
import { el } from "./dom.js";

export function besides(link, item) {
  const picture = (id, words) => {
    const image = el("img", { src: `${media}/full/${path(id)}`, alt: words });
    image.addEventListener("load", () => image.classList.toggle("pixelated", image.naturalWidth < 200));
    return el("figure", {}, image, el("figcaption", {}, words, el("br"), el("span", { class: "soft" }, id)));
  };
  const own = [item.finding.given, ...new Set(item.annotations.map((one) => one.label))].find(Boolean) || "this item";
  const dialog = el("dialog", { class: "beside", "aria-label": "Side by side" },
    el("div", { class: "pair" }, picture(item.sample.sample_id, `This: ${own}`), picture(link.dataset.beside, link.dataset.words || "no label")),
    el("form", { method: "dialog", class: "toolbar" }, el("button", { class: "primary" }, "Close")));
  dialog.addEventListener("close", () => (dialog.remove(), link.focus()));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
