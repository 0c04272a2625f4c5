/** Selections, colours and numbers of cells, as pure functions: masks hold one byte per cell, messages one bit. */

/** One byte per cell out of one bit per cell, lowest bit first; cells without a bit are 0. */
export function unpack(bytes, n) {
  const mask = new Uint8Array(n);
  const view = bytes?.byteLength ? new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength) : [];
  for (let i = 0; i < n && i >> 3 < view.length; i += 1) mask[i] = (view[i >> 3] >> (i & 7)) & 1;
  return mask;
}

export function pack(mask) {
  const bits = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i += 1) if (mask[i]) bits[i >> 3] |= 1 << (i & 7);
  return bits;
}

/** What is selected after `chosen` cells replaced, joined or left the selection. */
export function combine(current, chosen, mode) {
  if (mode === "replace") return chosen;
  const result = new Uint8Array(current);
  for (let i = 0; i < result.length; i += 1) if (chosen[i]) result[i] = mode === "add" ? 1 : 0;
  return result;
}

export const inverse = (mask) => mask.map((one) => 1 - one);

export function sameMask(a, b) {
  return a.length === b.length && a.every((one, i) => one === b[i]);
}

export function countOf(mask) {
  let n = 0;
  for (let i = 0; i < mask.length; i += 1) n += mask[i];
  return n;
}

/** The mode that a key or click asks for: Shift adds, Alt takes away, else the mode that is set. */
export function modeOf(event, mode) {
  if (event.shiftKey) return "add";
  return event.altKey ? "subtract" : mode;
}

export const formatCount = (n) => n.toLocaleString("en");

/** `412 of 4,000 cells selected (10.3 %)` */
export function selectionText(n, total) {
  const share = n && total ? ` (${(100 * n / total).toLocaleString("en", { maximumFractionDigits: 1 })} %)` : "";
  return `${formatCount(n)} of ${formatCount(total)} cells selected${share}`;
}

/** Numbers out of a message's bytes, which may begin anywhere. */
export function typed(bytes, dtype) {
  const Kind = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array }[dtype];
  if (!bytes?.byteLength) return new Kind(0);
  const start = bytes.byteOffset ?? 0;
  return new Kind((bytes.buffer ?? bytes).slice(start, start + bytes.byteLength));
}

/** The order in which cells are drawn: at random, so that no group hides another, and the same each time. */
export function drawingOrder(n) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let state = 1;
  for (let i = n - 1; i > 0; i -= 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator: good enough for a shuffle
    const j = Math.floor((state / 4294967296) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** The values at `order`, in an array of the same kind. */
export function taken(values, order) {
  const result = Array.isArray(values) ? new Array(order.length) : new values.constructor(order.length);
  for (let i = 0; i < order.length; i += 1) result[i] = values[order[i]];
  return result;
}

/** Places in drawing order of the cells of a mask. */
export function placesOf(mask, order) {
  const places = [];
  for (let i = 0; i < order.length; i += 1) if (mask[order[i]]) places.push(i);
  return places;
}

/** The mask of places in drawing order. */
export function maskOf(places, order) {
  const mask = new Uint8Array(order.length);
  for (const place of places) mask[order[place]] = 1;
  return mask;
}

/** Cells, and selected cells, of each group. */
export function countsOf(codes, n, mask) {
  const all = new Array(n).fill(0);
  const selected = new Array(n).fill(0);
  for (let i = 0; i < codes.length; i += 1) {
    all[codes[i]] += 1;
    selected[codes[i]] += mask[i];
  }
  return { all, selected };
}

export function maskOfCode(codes, code) {
  return Uint8Array.from(codes, (one) => (one === code ? 1 : 0));
}

export function maskBetween(values, low, high) {
  return Uint8Array.from(values, (value) => (value >= low && value <= high ? 1 : 0));
}

/** Smallest, median, mean and largest of the finite values in a mask; n is how many there are. */
export function summaryOf(values, mask) {
  const kept = values.filter((value, i) => mask[i] && Number.isFinite(value)).sort();
  const n = kept.length;
  if (!n) return { n, min: NaN, median: NaN, mean: NaN, max: NaN };
  const middle = (kept[Math.floor((n - 1) / 2)] + kept[Math.floor(n / 2)]) / 2;
  return { n, min: kept[0], median: middle, mean: kept.reduce((sum, value) => sum + value, 0) / n, max: kept[n - 1] };
}

/** Ranges in which all points are seen, with a margin; by default in one scale for both axes. */
export function fittedRanges(x, y, width, height, oneScale = true, margin = 0.04) {
  const span = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  };
  const [left, right] = span(x);
  const [bottom, top] = span(y);
  const [across, up] = [(right - left) / width, (top - bottom) / height];
  const around = (low, high, pixels, span) => {
    const half = (pixels * (span * (1 + 2 * margin) || 1 / Math.min(width, height))) / 2;
    return { start: (low + high) / 2 - half, end: (low + high) / 2 + half };
  };
  return {
    x: around(left, right, width, oneScale ? Math.max(across, up) : across),
    y: around(bottom, top, height, oneScale ? Math.max(across, up) : up),
  };
}

/** A range after a step by a share of its length, and after zooming around its middle. */
export function moved(range, step, zoom = 1) {
  const middle = (range.start + range.end) / 2 + step * (range.end - range.start);
  const half = ((range.end - range.start) / 2) * zoom;
  return { start: middle - half, end: middle + half };
}

/** Where the list's cursor goes. */
export function nextOption(current, key, length, page = 8) {
  const target = {
    ArrowDown: current + 1, ArrowUp: current - 1, PageDown: current + page, PageUp: current - page, Home: 0, End: length - 1,
  }[key];
  return target === undefined ? null : Math.max(0, Math.min(length - 1, target));
}

/** The next name that begins with a letter, after the current one and around. */
export function nextWithLetter(names, current, letter) {
  for (let step = 1; step <= names.length; step += 1) {
    const i = (current + step) % names.length;
    if (names[i].toLowerCase().startsWith(letter.toLowerCase())) return i;
  }
  return null;
}

/** A number with four digits, rounded in one direction (Math.floor or Math.ceil): a range must not lose its ends. */
export function rounded(value, round) {
  if (!value) return 0;
  const step = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return Number((round(value / step) * step).toPrecision(12));
}

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

export function luminance(colour) {
  const [red, green, blue] = channels(colour).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** WCAG's contrast of two colours `#rrggbb`, from 1 to 21. */
export function contrast(one, other) {
  const [a, b] = [luminance(one), luminance(other)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

/** A colour that can be seen on a paper: mixed with the paper's opposite as far as need be. */
export function visible(colour, paper, least) {
  const goal = luminance(paper) < 0.5 ? 255 : 0;
  for (let share = 0; share < 1; share += 0.05) {
    const mixed = "#" + channels(colour).map((value) =>
      Math.round(value + (goal - value) * share).toString(16).padStart(2, "0")).join("");
    if (contrast(mixed, paper) >= least) return mixed;
  }
  return goal ? "#ffffff" : "#000000";
}

/** A scale's colours as they are, without the end that the paper would swallow. */
export function visibleScale(colours, paper, least) {
  const seen = colours.filter((colour) => contrast(colour, paper) >= least);
  return seen.length > 8 ? seen : colours;
}
