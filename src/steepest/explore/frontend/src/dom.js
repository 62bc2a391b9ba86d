// Elements, made short.
const SVG = "http://www.w3.org/2000/svg";
let ids = 0;

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value);
  }
  return element;
}

export const svg = (name, attributes = {}) => set(document.createElementNS(SVG, name), attributes);

export function html(name, attributes = {}, ...children) {
  const element = set(document.createElement(name), attributes);
  element.append(...children);
  return element;
}

export const uniqueId = (stem) => `steepest-${stem}-${++ids}`;
