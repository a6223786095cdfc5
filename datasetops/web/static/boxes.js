// Fixing boxes: choose, move, resize by handles or keys, draw, delete, another class. The result is a fix.
import { svg } from "./dom.js";
import { annotation, outline } from "./shapes.js";

const GRAB = 9; // screen pixels around an edge or a corner that take hold of it
const GRAB_TOUCH = 18;
const SMALLEST = 1; // image pixels
const CORNERS = [["x1", "y1"], ["x2", "y1"], ["x2", "y2"], ["x1", "y2"]];
const SIDES = ["x1", "y1", "x2", "y2"];

export class BoxEditor extends EventTarget {
  constructor(viewer) {
    super();
    this.viewer = viewer;
    this.active = false;
    this.boxes = [];
  }

  // rows: annotations; only boxes can be moved, others can be deleted. `proposal` is taken as a start.
  // `many`: one box is drawn after the other.
  start(rows, { proposal = null, label = null, many = false } = {}) {
    this.active = true;
    this.many = many;
    this.label = label; // of what is drawn next
    this.drawing = false;
    this.held = null;
    this.boxes = rows
      .filter((row) => row.kind !== "classification")
      .map((row) => (row.kind === "box" && row.box
        ? { id: row.annotation_id, label: row.label, ...sides(row.box), was: { label: row.label, ...sides(row.box) }, subject: row.subject }
        : { id: row.annotation_id, label: row.label, shape: row, was: { label: row.label }, subject: row.subject }));
    this.at = this.boxes.findIndex((box) => box.subject);
    for (const put of proposal?.put || []) {
      if (typeof put.x1 !== "number" || (put.kind && put.kind !== "box")) continue;
      const old = this.boxes.findIndex((box) => box.id === put.annotation_id);
      if (put.annotation_id && old >= 0) {
        Object.assign(this.boxes[old], pick(put), put.label ? { label: put.label } : {});
        this.at = old;
      } else if (!put.annotation_id) {
        this.boxes.push({ id: null, label: put.label || label, ...pick(put) });
        this.at = this.boxes.length - 1;
      }
    }
    this.#changed();
  }
  stop() {
    if (!this.active) return;
    this.active = false;
    this.drawing = false;
    this.held = null;
    this.viewer.stage.classList.remove("drawing");
  }
  get selected() {
    return this.boxes[this.at] || null;
  }
  get dragging() {
    return Boolean(this.held);
  }

  fix() {
    const put = [];
    const remove = [];
    for (const box of this.boxes) {
      if (box.gone) {
        if (box.id) remove.push(box.id);
        continue;
      }
      const place = box.shape ? {} : tidy(box, this.viewer);
      if (!box.id) put.push({ annotation_id: null, kind: "box", label: box.label, ...place });
      else {
        const moved = !box.shape && SIDES.some((side) => Math.abs(place[side] - box.was[side]) > 1e-6);
        const named = box.label !== box.was.label;
        if (moved || named) put.push({ annotation_id: box.id, ...(named ? { label: box.label } : {}), ...(moved ? place : {}) });
      }
    }
    return put.length || remove.length ? { kind: "edit", put, remove } : null;
  }
  regions() {
    return this.boxes.filter((box) => !box.gone).map((box) => ({ kind: "box", label: box.label, ...tidy(box, this.viewer) }));
  }

  select(index) {
    this.at = index;
    if (this.selected) this.label = this.selected.label;
    this.#changed();
  }
  step(by) {
    const living = this.boxes.map((box, index) => (box.gone ? -1 : index)).filter((index) => index >= 0);
    if (!living.length) return;
    const now = living.indexOf(this.at);
    this.select(living[(now + by + living.length) % living.length]);
  }
  name(label) {
    this.label = label;
    if (this.selected) this.selected.label = label;
    this.#changed();
  }
  delete() {
    const box = this.selected;
    if (!box) return;
    if (box.id) box.gone = true;
    else this.boxes.splice(this.at, 1);
    this.at = -1;
    this.#changed();
  }
  toggleDraw() {
    this.drawing = !this.drawing;
    if (this.drawing && !this.many) this.at = -1;
    this.#changed();
  }
  // With the keyboard: a box in the middle of what is seen.
  drawInTheMiddle() {
    const { viewer } = this;
    const { clientWidth, clientHeight } = viewer.stage;
    const side = Math.min(clientWidth, clientHeight) / 4 / viewer.scale;
    const x = clamp((clientWidth / 2 - viewer.x) / viewer.scale, 0, viewer.width);
    const y = clamp((clientHeight / 2 - viewer.y) / viewer.scale, 0, viewer.height);
    this.boxes.push({ id: null, label: this.label, x1: Math.round(x - side / 2), y1: Math.round(y - side / 2), x2: Math.round(x + side / 2), y2: Math.round(y + side / 2) });
    Object.assign(this.boxes.at(-1), tidy(this.boxes.at(-1), viewer));
    this.drawing = this.many;
    this.select(this.boxes.length - 1);
  }
  nudge(dx, dy, resize) {
    const box = this.selected;
    if (!box || box.shape) return false;
    if (resize) {
      box.x2 = clamp(box.x2 + dx, box.x1 + SMALLEST, this.viewer.width);
      box.y2 = clamp(box.y2 + dy, box.y1 + SMALLEST, this.viewer.height);
    } else this.#shift(box, box, dx, dy);
    this.#changed();
    return true;
  }
  #shift(box, from, dx, dy) {
    const { width, height } = this.viewer;
    const x = clamp(dx, -from.x1, Math.max(-from.x1, width - from.x2));
    const y = clamp(dy, -from.y1, Math.max(-from.y1, height - from.y2));
    Object.assign(box, { x1: from.x1 + x, x2: from.x2 + x, y1: from.y1 + y, y2: from.y2 + y });
  }

  // Pointer.
  #hit(event) {
    const point = this.viewer.toImage(event);
    const reach = (event.pointerType === "touch" ? GRAB_TOUCH : GRAB) / this.viewer.scale;
    const hold = (box, index) => {
      const near = (side, value) => Math.abs(box[side] - value) <= reach;
      const inside = point.x > box.x1 - reach && point.x < box.x2 + reach && point.y > box.y1 - reach && point.y < box.y2 + reach;
      if (!inside) return null;
      const across = near("x1", point.x) && near("x2", point.x) ? [] : near("x1", point.x) ? ["x1"] : near("x2", point.x) ? ["x2"] : [];
      const down = near("y1", point.y) && near("y2", point.y) ? [] : near("y1", point.y) ? ["y1"] : near("y2", point.y) ? ["y2"] : [];
      return { index, sides: [...across, ...down] };
    };
    const selected = this.selected && !this.selected.gone && !this.selected.shape ? hold(this.selected, this.at) : null;
    if (selected) return selected;
    const found = this.boxes
      .map((box, index) => ({ box, index, area: (box.x2 - box.x1) * (box.y2 - box.y1) }))
      .filter(({ box }) => !box.gone && !box.shape && point.x >= box.x1 && point.x <= box.x2 && point.y >= box.y1 && point.y <= box.y2)
      .sort((a, b) => a.area - b.area)[0];
    return found ? { index: found.index, sides: [] } : null;
  }
  hover(event) {
    const hit = this.drawing ? null : this.#hit(event);
    const names = hit?.sides.join("") || "";
    const cursor = { x1: "ew-resize", x2: "ew-resize", y1: "ns-resize", y2: "ns-resize", x1y1: "nwse-resize", x2y2: "nwse-resize", x1y2: "nesw-resize", x2y1: "nesw-resize" }[names];
    this.viewer.stage.style.cursor = this.drawing ? "crosshair" : cursor || (hit ? "move" : "");
  }
  down(event) {
    const point = this.viewer.toImage(event);
    const grip = this.drawing && this.selected ? this.#hit(event) : null; // what was just drawn can be resized at once
    if (this.drawing && !(grip?.index === this.at && grip.sides.length)) {
      const x = clamp(point.x, 0, this.viewer.width);
      const y = clamp(point.y, 0, this.viewer.height);
      this.boxes.push({ id: null, label: this.label, x1: x, y1: y, x2: x, y2: y });
      this.at = this.boxes.length - 1;
      this.held = { start: { x, y }, fresh: true };
      return;
    }
    const hit = this.#hit(event);
    if (!hit) return;
    if (hit.index !== this.at) this.select(hit.index);
    this.held = { start: point, sides: hit.sides, from: { ...this.selected } };
  }
  move(event) {
    const { held, selected: box, viewer } = this;
    const point = viewer.toImage(event);
    const x = clamp(point.x, 0, viewer.width);
    const y = clamp(point.y, 0, viewer.height);
    if (held.fresh) {
      Object.assign(box, { x1: Math.min(x, held.start.x), x2: Math.max(x, held.start.x), y1: Math.min(y, held.start.y), y2: Math.max(y, held.start.y) });
    } else if (!held.sides.length) this.#shift(box, held.from, point.x - held.start.x, point.y - held.start.y);
    else {
      if (held.sides.includes("x1")) box.x1 = Math.min(clamp(held.from.x1 + point.x - held.start.x, 0, viewer.width), box.x2 - SMALLEST);
      if (held.sides.includes("x2")) box.x2 = Math.max(clamp(held.from.x2 + point.x - held.start.x, 0, viewer.width), box.x1 + SMALLEST);
      if (held.sides.includes("y1")) box.y1 = Math.min(clamp(held.from.y1 + point.y - held.start.y, 0, viewer.height), box.y2 - SMALLEST);
      if (held.sides.includes("y2")) box.y2 = Math.max(clamp(held.from.y2 + point.y - held.start.y, 0, viewer.height), box.y1 + SMALLEST);
    }
    this.#changed();
  }
  release() {
    if (!this.held) return;
    const { fresh } = this.held;
    this.held = null;
    const box = this.selected;
    if (fresh && box && Math.min(box.x2 - box.x1, box.y2 - box.y1) * this.viewer.scale < 4) {
      this.boxes.splice(this.at, 1); // a click, not a box
      this.at = -1;
    } else if (fresh) this.drawing = this.many;
    this.#changed();
  }
  #changed() {
    this.viewer.stage.classList.toggle("drawing", this.drawing);
    this.viewer.draw();
    this.dispatchEvent(new Event("change"));
  }

  draw() {
    const shapes = [];
    const colour = (label) => this.viewer.item.colour(label) || "#ffffff";
    this.boxes.forEach((box, index) => {
      if (box.gone) return;
      if (box.shape) shapes.push(...annotation({ ...box.shape, colour: colour(box.label), subject: index === this.at }));
      if (box.shape || index === this.at) return;
      shapes.push(...outline(SIDES.map((side) => box[side]), colour(box.label), box.was ? "other" : "marked"));
    });
    const box = this.selected;
    if (box && !box.gone && !box.shape) {
      if (box.was) shapes.unshift(...outline(SIDES.map((side) => box.was[side]), "#ffffff", "ghost"));
      shapes.push(...outline(SIDES.map((side) => box[side]), colour(box.label), "subject", box.label || "no class"));
      for (const [x, y] of CORNERS) shapes.push(svg("circle", { cx: box[x], cy: box[y], r: 6 / this.viewer.scale, class: "handle" }));
    }
    return shapes;
  }
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const sides = ([x1, y1, x2, y2]) => ({ x1, y1, x2, y2 });
const pick = ({ x1, y1, x2, y2 }) => ({ x1, y1, x2, y2 });

// Inside the image and with two decimals, as far as it was touched.
function tidy(box, { width, height }) {
  const place = {};
  for (const side of SIDES) {
    if (box.was && box.was[side] === box[side]) place[side] = box[side];
    else place[side] = Math.round(clamp(box[side], 0, side.startsWith("x") ? width : height) * 100) / 100;
  }
  return place;
}
