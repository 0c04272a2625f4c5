/** Models on cards, in words: pure functions. */
import { formatSeconds } from "./common.js";

/** A size as people say it: "940 bytes", "12.3 MB". */
export function bytesWords(size) {
  for (const [unit, least] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (size >= least) return `${(size / least).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} ${unit}`;
  }
  return `${size} ${size === 1 ? "byte" : "bytes"}`;
}

/** How far a work is. */
export function workWords({ stage, done, total, rate }) {
  if (!stage) return "";
  if (!total) return `${stage} …`;
  const words = [`${stage}: ${bytesWords(done)} of ${bytesWords(total)}, ${Math.floor((100 * done) / total)} %`];
  if (rate) words.push(`${bytesWords(Math.round(rate))} a second`);
  if (rate && done < total) words.push(`${formatSeconds((total - done) / rate)} to go`);
  return words.join(" · ");
}

/** Whether a model has all these words in what its card shows. */
export function matches({ title, text, folder, facts, kind }, wanted) {
  const all = [title, text, folder, kind, ...facts].join(" ").toLowerCase();
  return wanted.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

/** Authors, of a text with one in each line or between semicolons. */
export function authorsOf(text) {
  return text.split(/[;\n]/).map((one) => one.trim()).filter(Boolean);
}

/** The badge of a card: an icon and words, and the colour's name; null where there is nothing to compare cells with. */
export function fitBadge({ where, fit, has_card: hasCard, facts, problem, files }, hasQuery) {
  if (!hasQuery || (!fit && (problem || files?.length === 0))) return null;
  if (fit === "checking") return { icon: "…", words: "comparing your cells", kind: "none" };
  if (!fit) {
    const without = where === "local" ? "no card: compared when loaded" : "no card to compare with";
    return { icon: "?", words: facts.length || hasCard ? "not compared yet" : without, kind: "none" };
  }
  const share = `${Math.floor(100 * fit.overlap)} % of its ${fit.noun}s`;
  return {
    fits: { icon: "✓", words: `fits your cells, ${share}`, kind: "fits" },
    partly: { icon: "▲", words: `fits partly, ${share}`, kind: "partly" },
    unfit: { icon: "✕", words: "does not fit your cells", kind: "unfit" },
  }[fit.verdict];
}

/** What a click on a record's file does. */
export function fetchWords({ size, begun, taken }) {
  if (begun) return `Go on with the download (${bytesWords(Math.min(begun, size))} of ${bytesWords(size)} are here)`;
  return taken ? `Download ${bytesWords(size)} and replace the folder` : `Download ${bytesWords(size)}`;
}

/** Why a model cannot be uploaded now; empty if it can. */
export function uploadMissing({ key, title, authors, hasToken, target, busy, detached }) {
  if (detached) return "The kernel is gone.";
  if (target.on_binder) return "Tokens are not taken on Binder.";
  if (!key) return "Choose a model first.";
  if (!title.trim()) return "The card needs a title.";
  if (!authors.length) return "A record needs at least one author.";
  if (!hasToken) return "The token is missing.";
  return busy ? "Something else is under way." : "";
}

/** Why a draft cannot be published now; empty if it can. */
export function publishMissing({ draft, title, hasToken, target, busy, detached }) {
  if (detached) return "The kernel is gone.";
  if (target.on_binder) return "Tokens are not taken on Binder.";
  if (draft.state !== "filled") return "There is no draft with a model yet.";
  if (!title.trim()) return "Type the title first.";
  if (!hasToken) return "The token is missing.";
  return busy ? "Something else is under way." : "";
}
