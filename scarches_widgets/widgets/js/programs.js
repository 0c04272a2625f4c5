/** Rows of a table of gene programs, as pure functions. */

const MOST_ODDS = 1000; // larger ones are not told: they rest on few pairs of cells

/**
 * Which of the ranked programs are listed.
 * @param wanted `{ search, least, off, having }`: text in the name, fewest genes, also those switched off, and the
 *   programs with a gene (null: any)
 */
export function listedRows(rows, terms, { search, least, off, having }) {
  const text = search.toLowerCase();
  const kept = having && new Set(having);
  return rows.filter(({ i, n, on }) =>
    (on || off) && n >= least && (!kept || kept.has(i)) && terms[i].toLowerCase().includes(text));
}

/** Where a bar begins and how long it is, in per cent of its place; from the middle if values have signs. */
export function barOf(value, largest, signed) {
  const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
  if (!signed) return { start: 0, length: 100 * share };
  return { start: value < 0 ? 50 - 50 * share : 50, length: 50 * share };
}

/** Two or three decimals, with the sign if wanted. */
export function decimals(value, signed) {
  const text = Math.abs(value).toFixed(Math.abs(value) < 0.995 ? 3 : 2);
  const sign = value < 0 && Number(text) ? "−" : signed && value > 0 && Number(text) ? "+" : "";
  return sign + text;
}

/** A Bayes factor, which is a logarithm, as odds that a cell of one group has more than one of the other. */
export function odds(value, first, second) {
  const times = Math.exp(Math.abs(value));
  if (times < 1.05) return "even";
  const told = times > MOST_ODDS ? `>${MOST_ODDS.toLocaleString("en")}` : times >= 10 ? times.toFixed(0) : times.toFixed(1);
  return `${told} : 1 for ${value > 0 ? first : second}`;
}

/** The sentences on how many genes a program has. */
export function coverageWords({ n_set: set, n_annotated: annotated, n_here: here, n_loaded: loaded, n_up: up, n_joined: joined, on, unclear, confidence }) {
  const genes = (n) => `${n.toLocaleString("en")} ${n === 1 ? "gene" : "genes"}`;
  const words = [];
  if (set) words.push(`${annotated.toLocaleString("en")} of the ${genes(set)} of this set are in the model (${Math.round((100 * annotated) / set)} %).`);
  else if (annotated) words.push(`${genes(annotated)} of this set ${annotated === 1 ? "is" : "are"} in the model.`);
  else words.push("No set of genes stands behind this program: it was learnt.");
  if (here < annotated) words.push(`${here.toLocaleString("en")} of them are in these cells' data; the others count as zero.`);
  if (!on) return [...words, "The group lasso has switched it off: its activity is 0 in all cells."];
  words.push(`${genes(loaded)} ${loaded === 1 ? "has" : "have"} a loading; where its latent is higher, ${up.toLocaleString("en")} of them go up and ${(loaded - up).toLocaleString("en")} down.`);
  if (joined) words.push(`${genes(joined)} joined it in training, without being annotated with it.`);
  if (unclear) words.push(`Its direction is unclear (confidence ${confidence.toFixed(2)} of 1): a higher latent says little about whether its genes go up.`);
  return words;
}
