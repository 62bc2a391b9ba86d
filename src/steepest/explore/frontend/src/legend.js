// What dash, marker and colour stand for: one legend for the figure where all panels agree, else one a panel.
import { hatchOf } from "./annotations.js";
import { html, svg, uniqueId } from "./dom.js";
import { DASHES, markerPath } from "./palette.js";
import { rampOf } from "./fields.js";
import { formatNumber } from "./format.js";

// Entries [key, mark] of a panel's marks that carry a label.
function entriesOf(panel) {
  const entries = new Map();
  for (const mark of panel.marks) {
    if (!mark.label || !["line", "bars", "heatmap", "contour"].includes(mark.kind)) continue;
    const shape = mark.kind === "line" && mark.style === "dots" ? "dots" : mark.kind;
    entries.set(`${shape} ${mark.series ?? ""} ${mark.label}`, mark);
  }
  return entries;
}

// Legends as [element of the figure or null, elements by panel].
export function makeLegends(panels) {
  const all = panels.map(entriesOf);
  const bySeries = new Map();
  const clash = all.some((entries) =>
    [...entries.values()].some((mark) => {
      if (mark.series === undefined) return true;
      const known = bySeries.get(mark.series) ?? mark.label;
      bySeries.set(mark.series, mark.label);
      return known !== mark.label;
    }),
  );
  if (clash) return [null, all.map((entries) => listOf(entries))];
  // A method drawn as a line here and as bars there needs one entry, the line's.
  const merged = new Map();
  for (const entries of all) {
    for (const mark of entries.values()) {
      if (!merged.has(mark.series) || merged.get(mark.series).kind === "bars") merged.set(mark.series, mark);
    }
  }
  return [listOf(merged), panels.map(() => null)];
}

function listOf(entries) {
  if (!entries.size) return null;
  const items = [...entries.values()].map((mark) => html("li", {}, sampleOf(mark), html("span", {}, mark.label)));
  return html("ul", { class: "steepest-legend" }, ...items);
}

function sampleOf(mark) {
  if (mark.kind === "heatmap") {
    const [low, high] = mark.domain.map((value) => formatNumber(value, 3));
    const bar = html("span", { class: "steepest-ramp" });
    bar.style.background = `linear-gradient(to right, ${rampOf(mark).join(", ")})`;
    return html("span", { class: "steepest-scale" }, low, bar, high);
  }
  const sample = svg("svg", { width: 34, height: 14, class: `steepest-series-${mark.series ?? "none"}`, "aria-hidden": "true" });
  if (mark.kind === "bars") {
    const [hatch, box] = [uniqueId("hatch"), { x: 5, y: 1, width: 24, height: 12 }];
    sample.append(hatchOf(mark, hatch), svg("rect", { ...box, class: "steepest-bar-sample" }), svg("rect", { ...box, fill: `url(#${hatch})` }));
  }
  else if (mark.kind === "contour") sample.append(svg("path", { class: "steepest-contour-lines", d: "M2,10Q17,-2 32,10" }));
  else {
    if (mark.style !== "dots") sample.append(svg("path", { class: "steepest-line", d: "M1,7H33", "stroke-dasharray": DASHES[mark.series] || null }));
    sample.append(svg("path", { class: "steepest-points", d: markerPath(mark.series, 17, 7, 3.8) }));
  }
  return sample;
}
