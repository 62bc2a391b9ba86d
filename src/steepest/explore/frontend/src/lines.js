// Lines: vertices up to the revealed index, markers, and an arrow where the line has left the frame for good.
import { GAP, dequantise } from "./dataset.js";
import { svg } from "./dom.js";
import { DASHES, markerPath } from "./palette.js";

const n = (value) => value.toFixed(2);

export class Line {
  constructor(mark, identity, clip) {
    const series = mark.series;
    this.mark = mark;
    this.path = svg("path", { ...identity, class: "steepest-line", "stroke-dasharray": DASHES[series] || null, "clip-path": clip });
    this.points = svg("path", { class: "steepest-points" });
    this.last = svg("path", { class: "steepest-points steepest-last" });
    this.arrow = svg("path", { class: "steepest-arrow" });
    this.element = svg("g", { class: `steepest-mark steepest-series-${series}` });
    this.element.append(this.path, this.points, this.last, this.arrow);
    if (mark.style === "dots") this.path.style.stroke = "none";
  }

  draw(frame, { row, revealed }) {
    this.vertices = verticesOf(frame, row, revealed);
    const inside = this.vertices.filter((vertex) => vertex && frame.holds(vertex[0], vertex[1]));
    this.path.setAttribute("d", pathOf(this.vertices));
    const { series, style } = this.mark;
    const dots = style === "line" ? [] : inside;
    this.points.setAttribute("d", dots.map(([x, y]) => markerPath(series, x, y, 2.6)).join(""));
    const end = this.vertices.at(-1);
    const ended = style !== "dots" && end && frame.holds(end[0], end[1]);
    this.last.setAttribute("d", ended ? markerPath(series, end[0], end[1], 4.2) : "");
    this.arrow.setAttribute("d", style === "dots" ? "" : exitArrow(this.vertices, frame));
  }
}

// Points in px, null where the line is interrupted; each carries the index that reveals it.
function verticesOf(frame, row, revealed) {
  const x = row("x");
  const y = row("y");
  const index = row("index");
  const vertices = [];
  for (let i = 0; i < x.length; i++) {
    if ((index ? index[i] : i) > revealed) break;
    if (x[i] !== GAP) vertices.push([frame.x(dequantise(x[i], ...frame.extentX)), frame.y(dequantise(y[i], ...frame.extentY)), index ? index[i] : i]);
    else if (vertices.length && vertices.at(-1)) vertices.push(null);
  }
  if (vertices.at(-1) === null) vertices.pop();
  return vertices;
}

function pathOf(vertices) {
  let open = false;
  let d = "";
  for (const vertex of vertices) {
    if (vertex) d += `${open ? "L" : "M"}${n(vertex[0])},${n(vertex[1])}`;
    open = vertex !== null;
  }
  return d;
}

// An arrowhead at the frame, pointing the way in which the line's last part leaves it.
function exitArrow(vertices, frame) {
  const end = vertices.at(-1);
  if (!end || frame.holds(end[0], end[1])) return "";
  for (let i = vertices.length - 2; i >= 0 && vertices[i]; i--) {
    const [x0, y0] = vertices[i];
    const [x1, y1] = vertices[i + 1];
    const share = frame.leaves(x0, y0, x1, y1);
    if (share === null) continue;
    const length = Math.hypot(x1 - x0, y1 - y0);
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
    const [x, y] = [x0 + share * (x1 - x0), y0 + share * (y1 - y0)];
    const back = [x - 8 * ux, y - 8 * uy];
    return `M${n(x)},${n(y)}L${n(back[0] - 4.5 * uy)},${n(back[1] + 4.5 * ux)}L${n(back[0] + 4.5 * uy)},${n(back[1] - 4.5 * ux)}Z`;
  }
  return "";
}
