/** What an exercise says, in words. Pure, so that node can test it. */

/** A text as pieces: what stands between backticks is code. */
export function parted(text) {
  return text.split("`").map((piece, i) => ({ text: piece, code: i % 2 === 1 })).filter((piece) => piece.text);
}

/** What the next rung of the ladder is called; empty at its end. */
export function rungWords({ hints, n_hints: n, solution, has_solution: hasSolution }) {
  if (hints.length < n) return n === 1 ? "Hint" : `Hint ${hints.length + 1} of ${n}`;
  return hasSolution && !solution ? "Show the solution" : "";
}

/** How far it is. */
export function outcomeWords(checks, progress, status) {
  const met = checks.filter((check) => check.met).length;
  if (status === "detached") return "The kernel was restarted or has died; what is shown is kept.";
  if (status === "done") return checks.length === 1 ? "Right." : `All ${checks.length} checks are met.`;
  const before = progress.passed ? `Passed on ${progress.passed.slice(0, 10)}. ` : "";
  if (!progress.attempts && !met) return before && `${before}Run the cells above and check again.`;
  return `${before}${met} of ${checks.length} ${checks.length === 1 ? "check is" : "checks are"} met.`;
}
