// The two axes of a panel: scales from axis coordinates to px, ticks, labels.
import { ticks as linearTicks } from "d3-array";
import { formatNumber, superscript, tickFormat } from "./format.js";
import { set, svg } from "./dom.js";

const CHARACTER = 6.4;

// Ticks as [position in axis coordinates, label]; log axes carry log10 as their coordinate.
export function ticksOf(axis, count) {
  const [low, high] = axis.frame;
  if (axis.scale === "category") return axis.categories.map((name, i) => [i, name]);
  if (axis.scale === "linear") {
    const values = linearTicks(low, high, count);
    const label = tickFormat(values);
    return values.map((value) => [value, label(value)]);
  }
  const decades = linearTicks(low, high, Math.min(count, Math.max(1, Math.floor(high - low)))).filter(Number.isInteger);
  if (high - low > 2) return decades.map((power) => [power, powerLabel(power, low, high)]);
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const factor of [1, 2, 5]) {
      const at = power + Math.log10(factor);
      if (at >= low - 1e-9 && at <= high + 1e-9) ticks.push([at, formatNumber(Number((factor * 10 ** power).toPrecision(3)))]);
    }
  }
  return ticks;
}

function powerLabel(power, low, high) {
  const small = Math.min(low, high) >= -2 && Math.max(low, high) <= 4;
  return small ? formatNumber(Number((10 ** power).toPrecision(2))) : `10${superscript(power)}`;
}

// Width that the tick labels of a y axis need.
export function labelWidth(axis, count) {
  return Math.max(...ticksOf(axis, count).map(([, label]) => label.length)) * CHARACTER;
}

// px of an axis coordinate.
export function scaleOf(axis, range) {
  const [low, high] = axis.frame;
  return (value) => range[0] + ((value - low) / (high - low)) * (range[1] - range[0]);
}

export function drawAxis(group, name, axis, range, box) {
  group.replaceChildren();
  set(group, {
    class: `steepest-axis steepest-axis-${name}`,
    "data-axis": name,
    "data-domain": JSON.stringify(axis.domain ?? axis.categories),
    "data-range": JSON.stringify(range),
    "data-scale": axis.scale,
  });
  const horizontal = name === "x";
  const length = Math.abs(range[1] - range[0]);
  const scale = scaleOf(axis, range);
  group.append(
    svg("path", {
      class: "steepest-axis-line",
      d: horizontal ? `M${box.left},${box.bottom}H${box.right}` : `M${box.left},${box.top}V${box.bottom}`,
    }),
  );
  for (const [value, label] of thinned(ticksOf(axis, tickCount(horizontal, length)), scale, horizontal, axis)) {
    const at = scale(value).toFixed(2);
    const mark = svg("g", { class: "steepest-tick", transform: horizontal ? `translate(${at},${box.bottom})` : `translate(${box.left},${at})` });
    if (axis.scale !== "category") {
      const across = horizontal ? `V${box.top - box.bottom}` : `H${box.right - box.left}`;
      mark.append(svg("path", { class: "steepest-gridline", d: `M0,0${across}` }));
      mark.append(svg("path", { class: "steepest-tickline", d: horizontal ? "M0,0V4" : "M0,0H-4" }));
    }
    const text = svg("text", horizontal ? { y: 16, "text-anchor": "middle" } : { x: -8, dy: "0.32em", "text-anchor": "end" });
    if (horizontal && axis.scale === "category") text.append(...wrapped(label, length / axis.categories.length));
    else text.textContent = label;
    mark.append(text);
    group.append(mark);
  }
  const title = horizontal
    ? svg("text", { class: "steepest-axis-title", x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" })
    : svg("text", { class: "steepest-axis-title", x: 2, y: box.top - 12 });
  title.textContent = axis.label;
  group.append(title);
}

export function tickCount(horizontal, length) {
  return Math.max(2, Math.round(length / (horizontal ? 64 : 44)));
}

// Words of a category's name in as many lines as its width asks for.
function wrapped(label, width) {
  const lines = [];
  for (const word of label.split(" ")) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && longer.length * CHARACTER <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.map((line, i) => {
    const span = svg("tspan", { x: 0, dy: i ? 12 : 0 });
    span.textContent = line;
    return span;
  });
}

// Leaves out labels that would run into the one before them.
function thinned(ticks, scale, horizontal, axis) {
  if (!horizontal || axis.scale === "category") return ticks;
  let end = -Infinity;
  return ticks.filter(([value, label]) => {
    const half = (label.length * CHARACTER) / 2;
    const at = scale(value);
    if (at - half < end + 6) return false;
    end = at + half;
    return true;
  });
}
