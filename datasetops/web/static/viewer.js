// An image with outlines over it: zoom, pan, and fixing boxes. Shapes are in pixels of the image as it is shown.
import { BoxEditor } from "./boxes.js";
import { el, svg } from "./dom.js";
import { annotation, outline, rescale } from "./shapes.js";

const OVERLAYS = ["all", "this one", "none"];
const LARGEST = 24; // screen pixels for one of the image's: more hides what it shows
const TINY = 96; // pixels: up to this side the image is shown small and smooth as well, since large pixels hide what it is
const TOOLS = 44; // screen pixels above the image for the buttons
const SMALL_ON_SCREEN = 44; // a subject with sides below this many screen pixels is zoomed to at once

const rank = (row) => 2 * Boolean(row.subject) + Boolean(row.mentioned); // what is drawn later lies above

export class Viewer extends EventTarget {
  constructor(stage) {
    super();
    this.stage = stage;
    stage.tabIndex = 0;
    this.overlay = "all";
    this.smooth = false;
    this.image = this.#adopt(new Image());
    this.shapes = svg("svg", { class: "shapes", preserveAspectRatio: "none" });
    this.masks = el("div", { class: "masks" });
    this.frame = el("div", { class: "frame" }, this.image, this.masks, this.shapes);
    this.missing = el("p", { class: "missing", hidden: true });
    this.inset = el("img", { class: "inset", alt: "", hidden: true });
    stage.replaceChildren(this.frame, this.missing, this.inset, this.#tools());
    this.boxes = new BoxEditor(this);
    this.pointers = new Map();
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.#up(event));
    new ResizeObserver(() => this.item && (this.fitted ? this.fit() : this.apply())).observe(stage);
  }

  #tools() {
    const button = (words, title, act, name) => el("button", { type: "button", title, "aria-label": title, onclick: act, "data-tool": name }, words);
    this.overlayButton = button("Outlines: all", "Outlines: all, this one, none (o)", () => this.nextOverlay(), "overlay");
    this.smoothButton = button("Smooth", "Smooth instead of pixels (p)", () => this.toggleSmooth(), "smooth");
    this.scaleWords = el("span", { class: "scale" });
    return el("div", { class: "tools", role: "toolbar", "aria-label": "View" },
      button("+", "Zoom in (+)", () => this.zoom(1.4), "in"),
      button("−", "Zoom out (−)", () => this.zoom(1 / 1.4), "out"),
      button("Fit", "Whole image (w)", () => this.fit()),
      this.overlayButton, this.smoothButton, this.scaleWords);
  }

  #adopt(image) {
    image.className = "picture";
    image.draggable = false;
    image.onload = () => image === this.image && this.#loaded();
    image.onerror = () => image === this.image && this.#failed();
    return image;
  }

  // item: {src, image, alt, width, height, annotations, proposal: {put, remove} | null, box, classes}
  show(item) {
    this.boxes.stop();
    this.item = item;
    this.fitted = true;
    this.missing.hidden = true;
    this.frame.hidden = !item.src;
    this.stage.querySelector(".tools").hidden = !item.src;
    this.inset.hidden = true;
    if (!item.src) {
      this.missing.hidden = false;
      this.missing.textContent = "This finding is about the whole set: there is no image to show.";
      this.image.removeAttribute("src");
      return;
    }
    this.width = item.width || 640;
    this.height = item.height || 480;
    const image = this.#adopt(item.image || new Image()); // one that was fetched ahead is there at once
    this.image.replaceWith(image);
    this.image = image;
    image.hidden = false;
    image.alt = item.alt || "";
    if (image.getAttribute("src") !== item.src) image.src = item.src;
    if (this.image.complete && this.image.naturalWidth) this.#loaded();
    else {
      this.fit();
      this.#look();
      this.draw();
    }
  }

  #loaded() {
    if (!this.item) return;
    const { naturalWidth, naturalHeight } = this.image;
    const stated = this.item.width / this.item.height;
    // An image served smaller than it is keeps the stated pixels; one of another shape has its own.
    if (naturalWidth && !(Math.abs(stated / (naturalWidth / naturalHeight) - 1) < 0.03)) {
      this.width = naturalWidth;
      this.height = naturalHeight;
    }
    this.missing.hidden = true;
    this.image.hidden = false;
    this.fit();
    this.#look();
    this.draw();
    this.dispatchEvent(new Event("shown"));
  }
  #failed() {
    if (!this.item?.src) return;
    this.image.hidden = true;
    this.missing.hidden = false;
    this.missing.textContent = "This image cannot be shown: the file is missing or cannot be read.";
  }

  // The view: `scale` screen pixels for one of the image's, (x, y) of its corner on the stage.
  fit() {
    const room = this.#room();
    this.scale = Math.min(LARGEST, room.width / this.width, room.height / this.height);
    this.x = (room.width - this.width * this.scale) / 2 + room.left;
    this.y = (room.height - this.height * this.scale) / 2 + room.top;
    this.fitted = true;
    this.apply();
  }
  #room() {
    const edge = 10;
    const { clientWidth, clientHeight } = this.stage;
    return { left: edge, top: TOOLS, width: Math.max(20, clientWidth - 2 * edge), height: Math.max(20, clientHeight - TOOLS - edge) };
  }
  zoom(factor, at = null) {
    if (!this.item?.src) return;
    const centre = at || { x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2 };
    const scale = Math.min(Math.max(this.scale * factor, 0.02), LARGEST * 2);
    this.x = centre.x - ((centre.x - this.x) * scale) / this.scale;
    this.y = centre.y - ((centre.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.apply();
  }
  pan(dx, dy) {
    if (!this.item?.src) return;
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.apply();
  }
  zoomTo([x1, y1, x2, y2], share = 0.35) {
    const { clientWidth, clientHeight } = this.stage;
    const side = Math.max(1, x2 - x1, y2 - y1);
    this.scale = Math.min((share * Math.min(clientWidth, clientHeight)) / side, LARGEST * 2);
    this.x = clientWidth / 2 - ((x1 + x2) / 2) * this.scale;
    this.y = clientHeight / 2 - ((y1 + y2) / 2) * this.scale;
    this.fitted = false;
    this.apply();
  }
  focus() {
    const box = this.subjectBox();
    if (box) this.zoomTo(box);
    else this.fit();
  }
  #look() {
    const box = this.subjectBox();
    if (box && Math.max(box[2] - box[0], box[3] - box[1]) * this.scale < SMALL_ON_SCREEN) this.zoomTo(box, 0.2);
  }
  subjectBox() {
    const item = this.item;
    const subject = item?.annotations?.find((one) => one.subject && (one.box || one.keypoints));
    if (subject?.box) return subject.box;
    const points = subject?.keypoints?.filter((point) => point[2] !== 0);
    if (points?.length) {
      const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
      return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    }
    return item?.box || null;
  }
  apply() {
    if (!this.item?.src) return;
    const style = this.frame.style;
    style.width = `${this.width * this.scale}px`;
    style.height = `${this.height * this.scale}px`;
    style.transform = `translate(${this.x}px, ${this.y}px)`;
    this.image.classList.toggle("pixelated", !this.smooth && this.scale >= 2);
    const tiny = Math.max(this.width, this.height) <= TINY && this.scale >= 6 && !this.smooth;
    if (tiny && this.inset.getAttribute("src") !== this.item.src) this.inset.src = this.item.src;
    this.inset.hidden = !tiny || this.image.hidden;
    this.smoothButton.hidden = this.scale < 2;
    this.smoothButton.setAttribute("aria-pressed", String(this.smooth));
    this.scaleWords.textContent = `${this.width} × ${this.height} at ${this.scale >= 1 ? `${+this.scale.toFixed(1)}×` : `${Math.round(100 * this.scale)} %`}`;
    rescale(this.shapes, this.scale);
  }
  toImage(event) {
    const place = this.stage.getBoundingClientRect();
    return { x: (event.clientX - place.left - this.x) / this.scale, y: (event.clientY - place.top - this.y) / this.scale };
  }

  nextOverlay() {
    this.overlay = OVERLAYS[(OVERLAYS.indexOf(this.overlay) + 1) % OVERLAYS.length];
    this.draw();
    return this.overlay;
  }
  toggleSmooth() {
    this.smooth = !this.smooth;
    this.apply();
  }
  highlight(annotationId) {
    this.marked = annotationId;
    this.draw();
    const row = this.item?.annotations.find((one) => one.annotation_id === annotationId);
    if (row?.box) this.zoomTo(row.box);
    this.marked = null;
  }

  draw() {
    this.overlayButton.hidden = !this.item?.src || !(this.item.box || this.item.annotations.some((one) => one.kind !== "classification"));
    this.overlayButton.textContent = `Outlines: ${this.overlay}`;
    this.shapes.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const shapes = [];
    const masks = [];
    const item = this.item;
    if (!item) return;
    if (this.boxes.active) shapes.push(...this.boxes.draw());
    else if (this.overlay !== "none") {
      const rows = item.annotations.filter((one) => this.overlay === "all" || one.subject);
      for (const row of [...rows].sort((a, b) => rank(a) - rank(b))) {
        shapes.push(...annotation(row, row.mentioned ? row.annotation_id : this.marked));
        if (row.mask) masks.push(el("img", { class: "mask", alt: "", src: `${item.maskBase}/${encodeURIComponent(row.annotation_id)}.png` }));
      }
      if (item.box && !item.annotations.some((one) => one.subject && one.box)) shapes.push(...outline(item.box, "#ffffff", "where", item.boxWords || "here"));
      for (const put of item.proposal?.put || []) {
        const box = [put.x1, put.y1, put.x2, put.y2];
        if (box.every((value) => typeof value === "number")) shapes.push(...outline(box, item.colour(put.label) || "#ffffff", "proposed", `suggested${put.label ? `: ${put.label}` : ""}`));
      }
    }
    this.shapes.replaceChildren(...shapes);
    this.masks.replaceChildren(...masks);
    this.apply();
  }
  #wheel(event) {
    if (!this.item?.src || event.target.closest(".tools")) return;
    event.preventDefault();
    const place = this.stage.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.zoom(Math.exp((-event.deltaY * lines * (event.ctrlKey ? 4 : 1)) / 400), { x: event.clientX - place.left, y: event.clientY - place.top });
  }
  #down(event) {
    if (event.target.closest(".tools") || !this.item?.src || event.button > 1) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 1 && event.button === 0 && !this.panning && this.boxes.active) this.boxes.down(event);
    else if (this.pointers.size > 1) this.boxes.release();
    this.stage.classList.toggle("grabbing", !this.boxes.dragging);
  }
  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (this.boxes.active && event.pointerType === "mouse") this.boxes.hover(event);
      return;
    }
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const place = this.stage.getBoundingClientRect();
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      this.pan((event.clientX - before.x) / 2, (event.clientY - before.y) / 2);
      if (was > 0) this.zoom(is / was, { x: (event.clientX + other.x) / 2 - place.left, y: (event.clientY + other.y) / 2 - place.top });
    } else if (this.boxes.dragging) this.boxes.move(event);
    else this.pan(event.clientX - before.x, event.clientY - before.y);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }
  #up(event) {
    this.pointers.delete(event.pointerId);
    this.boxes.release();
    this.stage.classList.remove("grabbing");
  }
}
