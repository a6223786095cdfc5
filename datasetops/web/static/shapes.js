// Outlines as SVG, in pixels of the image; what keeps its size on the screen is told the scale.
import { svg } from "./dom.js";

export function outline([x1, y1, x2, y2], colour, kind, words = null) {
  const place = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
  const found = [svg("rect", { ...place, class: `halo ${kind}` }), svg("rect", { ...place, class: `line ${kind}`, stroke: colour })];
  if (words) {
    const text = svg("text", { x: place.x, y: place.y, class: "name" });
    text.dataset.y = place.y;
    text.textContent = words;
    found.push(text);
  }
  return found;
}

// Shapes of one annotation; `marked`: the id of the one that was pointed at.
export function annotation(row, marked = null) {
  const kind = row.subject ? "subject" : row.annotation_id === marked ? "marked" : "other";
  const found = [];
  const stroke = (tag, place, fill = {}) => found.push(svg(tag, { ...place, class: `halo ${kind}` }), svg(tag, { ...place, ...fill, class: `line ${kind}`, stroke: row.colour }));
  if (row.box && row.kind !== "mask" && row.kind !== "polygon") found.push(...outline(row.box, row.colour, kind, row.subject ? row.label || row.kind : null));
  for (const ring of row.polygons || []) stroke("polygon", { points: ring.join(" ") }, { fill: row.colour, "fill-opacity": 0.12 });
  const seen = (point) => point && point[2] !== 0;
  for (const [i, j] of row.keypoints ? row.skeleton || [] : []) {
    const [a, b] = [row.keypoints[i], row.keypoints[j]];
    if (seen(a) && seen(b)) stroke("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] });
  }
  for (const point of (row.keypoints || []).filter(seen)) found.push(svg("circle", { cx: point[0], cy: point[1], r: 3, class: point[2] === 1 ? "dot hidden-point" : "dot", fill: row.colour }));
  return found;
}

export function rescale(shapes, scale) {
  for (const handle of shapes.querySelectorAll(".handle")) handle.setAttribute("r", 6 / scale);
  for (const dot of shapes.querySelectorAll(".dot")) dot.setAttribute("r", 3.5 / scale);
  const size = 12 / scale;
  for (const text of shapes.querySelectorAll("text")) {
    const top = Number(text.dataset.y);
    text.setAttribute("font-size", size);
    text.setAttribute("stroke-width", 3 / scale);
    text.setAttribute("y", top < 1.4 * size ? top + 1.2 * size : top - 0.4 * size); // below the edge where there is no room above
  }
}
