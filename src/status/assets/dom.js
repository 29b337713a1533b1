// Elements, lists that change in place, and sparklines.
//
// Whatever text comes from a snapshot ends in a text node or an attribute. Nothing here makes markup out of text.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `children` may be elements and strings. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text only if it is another one, so that selections and screen readers are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/**
 * Keeps the children of `parent` in step with a list. `make()` gives `{ element, update(item) }`; an item keeps its
 * element as long as its key stays.
 */
export function keyed(parent, key, make) {
  let known = new Map();
  return (items) => {
    const next = new Map();
    for (const item of items) {
      const id = String(key(item));
      const part = known.get(id) ?? make();
      part.update(item);
      next.set(id, part);
    }
    for (const [id, part] of known) if (!next.has(id)) part.element.remove();
    let place = parent.firstElementChild;
    for (const part of next.values()) {
      if (part.element === place) place = place.nextElementSibling;
      else parent.insertBefore(part.element, place);
    }
    known = next;
  };
}

const WIDTH = 120;
const HEIGHT = 32;

/** A small curve of the last samples. `floor` is the least that fills its height, so that noise stays small. */
export function sparkline(kind, floor) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  const element = svg(
    "svg",
    { class: `spark ${kind}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  const update = (samples, capacity) => {
    const curve = trace(samples ?? [], capacity, floor);
    area.setAttribute("d", curve.area);
    line.setAttribute("d", curve.line);
  };
  return { element, update };
}

/** Paths through the samples, newest at the right edge, with gaps where there is none. */
function trace(samples, capacity, floor) {
  const top = Math.max(floor, ...samples.map((value) => (value ?? 0) * 1.08));
  const step = WIDTH / Math.max(1, capacity - 1);
  const x = (at) => (WIDTH - (samples.length - 1 - at) * step).toFixed(1);
  const y = (value) => (HEIGHT - 1.5 - (HEIGHT - 3) * (value / top)).toFixed(1);
  let [line, area] = ["", ""];
  for (let at = 0; at < samples.length; at += 1) {
    if (samples[at] === null) continue;
    const begin = at;
    let run = "";
    for (; at < samples.length && samples[at] !== null; at += 1) run += ` ${x(at)},${y(samples[at])}`;
    line += `M${run}`;
    area += `M${x(begin)},${HEIGHT} L${run} L${x(at - 1)},${HEIGHT}Z`;
  }
  return { line, area };
}
