// Numbers as people read them.
import { format, precisionFixed } from "d3-format";

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const grouped = format(",");

const minus = (text) => text.replace("-", "−");

export const superscript = (power) => Array.from(String(power), (c) => SUPERSCRIPT[c]).join("");

// A value with at most `digits` significant digits; very large and small ones as a power of ten.
export function formatNumber(value, digits = 4) {
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return minus(Math.abs(value) < 1e4 ? String(value) : grouped(value));
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e6) return minus(String(Number(value.toPrecision(digits))));
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const factor = String(Number(mantissa));
  return minus(factor === "1" ? "" : `${factor}×`) + `10${superscript(Number(power))}`;
}

// Labels of the ticks of a linear axis, alike in their digits.
export function tickFormat(ticks) {
  const largest = Math.max(...ticks.map(Math.abs));
  if (largest >= 1e5 || largest < 1e-3) return (value) => formatNumber(value, 3);
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : largest;
  const fixed = format(`,.${precisionFixed(step)}f`);
  return (value) => minus(fixed(value).replace("−", "-"));
}
