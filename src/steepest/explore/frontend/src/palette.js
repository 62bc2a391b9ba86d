// Dash and marker of each series; its colours are custom properties in explore.css. A test compares both with palette.py.
export const DASHES = ["", "7 3", "2 2.5", "8 3 2 3", "12 4", "5 2 1.5 2 1.5 2", "4 4", "1 3"];

// Hatch of the bars of each series in a square of 6 px.
export const HATCHES = ["", "M-1,1L1,-1M0,6L6,0M5,7L7,5", "M0,3H6", "M-1,5L1,7M0,0L6,6M5,-1L7,1", "M3,0V6", "M0,0L6,6M6,0L0,6", "M0,3H6M3,0V6", "M2,3H4"];

// Marker outlines around the origin with radius 1, as points; `open` ones are strokes only.
const turn = (n, radius = () => 1, start = -Math.PI / 2) =>
  Array.from({ length: n }, (_, i) => {
    const angle = start + (2 * Math.PI * i) / n;
    return [radius(i) * Math.cos(angle), radius(i) * Math.sin(angle)];
  });

const spokes = (points) => points.map((point) => [[0, 0], point]);

export const MARKERS = [
  { name: "circle" },
  { name: "square", points: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]] },
  { name: "triangle", points: turn(3, () => 1.25) },
  { name: "diamond", points: turn(4, () => 1.25) },
  { name: "cross", spokes: spokes(turn(4, () => 1.25, Math.PI / 4)) },
  { name: "star", points: turn(10, (i) => (i % 2 ? 0.6 : 1.45)) },
  { name: "wye", spokes: spokes(turn(3, () => 1.3, Math.PI / 2)) },
  { name: "plus", spokes: spokes(turn(4, () => 1.2)) },
];

const n = (value) => value.toFixed(2);

// Path data of the marker of a series at (x, y).
export function markerPath(series, x, y, radius) {
  const marker = MARKERS[series];
  if (marker.points) {
    return marker.points.map(([dx, dy], i) => `${i ? "L" : "M"}${n(x + radius * dx)},${n(y + radius * dy)}`).join("") + "Z";
  }
  if (marker.spokes) {
    return marker.spokes
      .map(([from, to]) => `M${n(x + radius * from[0])},${n(y + radius * from[1])}L${n(x + radius * to[0])},${n(y + radius * to[1])}`)
      .join("");
  }
  const d = n(2 * radius);
  return `M${n(x - radius)},${n(y)}a${n(radius)},${n(radius)} 0 1,0 ${d},0a${n(radius)},${n(radius)} 0 1,0 -${d},0Z`;
}

// Both ramps of heatmaps, from their low to their high end.
export const SEQUENTIAL = ["#f5f8fb", "#c3d9ec", "#82b1d8", "#3f82bd", "#1a5692", "#0b2c5a"];
export const DIVERGING = ["#1f4e95", "#6fa0d6", "#c9dcef", "#f6f5f3", "#f3cdb6", "#dc8459", "#a0391a"];

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// 256 colours of a ramp as rows of red, green, blue.
export function rampTable(colours) {
  const stops = colours.map(channels);
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, c) => Math.round(value + (at - low) * (stops[low + 1][c] - value)));
  });
}
