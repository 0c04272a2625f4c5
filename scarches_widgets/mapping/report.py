"""One HTML page that tells how a mapping went: scores, curves, embedding, labels, tree. Offline, without scripts."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.names import listed
from ..models.base import Model
from .hierarchy import Hierarchy, hierarchical_f1
from .hierarchy.picture import tree_picture
from .pictures import COLOURS, draw_groups, figure, palette, picture_bytes

if TYPE_CHECKING:
    from .journey import Mapped

MOST_CELLS = 4000  # drawn in the embedding
DPI = 110
EXPLAINED = {  # column of Mapped.scores -> name, meaning
    "accuracy": ("Accuracy", "share of query cells with the right label"),
    "macro_f1": ("Macro-F1", "harmonic mean of precision and recall, averaged over types"),
    "auroc_unknown_types": ("AUROC of unknown types", "how well uncertainty tells types that the reference lacks"),
    "mixing_within_types": (
        "Mixing within types",
        "batches among a cell's neighbours of its type; 1 = mixed as by chance",
    ),
    "asw_types": ("ASW of types", "silhouette of types; 1 = far apart, 0.5 = touching"),
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #5c5c66; --paper: #fff; --line: #d9d9e0; --panel: #f6f6f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf1; --soft: #a5a5b3; --paper: #17171b; --line: #3a3a44; --panel: #212127; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { font-size: 1.05rem; } .soft, figcaption, th small { color: var(--soft); }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
       text-align: right; vertical-align: top; } th:first-child { text-align: left; }
th.left, td.left { text-align: left; } th small { display: block; font-weight: normal; line-height: 1.3; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; border: 1px solid var(--line); }
figcaption { font-size: .9rem; }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .7rem;
      font-size: .85rem; }
"""


def write_report(path: Path, title: str, mapped: Mapped, reference: Model) -> None:
    """Write the page for a mapping onto `reference`."""
    figures = [
        (
            "Training",
            _draw_curves(reference, mapped.model),
            "Loss per cell (nats) by epoch, on training and held-out cells.",
        ),
        ("Embedding", _draw_embedding(mapped), _embedding_caption(mapped)),
    ]
    if mapped.scores is not None:
        figures.append(("Labels", _draw_labels(mapped), "Left: given against transferred label, share of each row. "
                        "Right: the transfer's uncertainty, 0 = all neighbours agree."))  # fmt: skip
    body = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(_summary(mapped, reference))}</p>']
    if mapped.scores is not None:
        body += ["<h2>Scores</h2>", _table(mapped.scores)]
    body += [_figure(*parts) for parts in figures]
    if mapped.tree is not None:
        body += _tree_section(mapped)
    body += ["<h2>Genes</h2>", f"<p>{_text(mapped.model.gene_report)}</p>"]
    path.write_text(offline_page(title, "".join(body)), encoding="utf-8")


def offline_page(title: str, body: str) -> str:
    """A page in the reports' style that asks no other for anything and runs no script."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _summary(mapped: Mapped, reference: Model) -> str:
    n_query = int((mapped.cells.obs["role"] == "query").sum())
    text = (
        f"{n_query:,} cells of {_batches(mapped, 'query')} were mapped onto {reference.adata.n_obs:,} cells of "
        f"{_batches(mapped, 'reference')} with {type(reference).__name__} and architecture surgery."
    )
    if mapped.scores is None:
        return text
    unknown = (mapped.cells.obs["predicted"] == "Unknown").sum()
    text += f" {unknown:,} cells were left “Unknown”." if unknown else ""
    if "accuracy" in mapped.scores:
        ours, baseline = mapped.scores["accuracy"].iloc[:2]  # surgery + kNN, PCA + kNN; a classifier's comes after
        text += f" {ours:.1%} of the labels agree with those given in the data (PCA + kNN: {baseline:.1%})."
    return text


def _batches(mapped: Mapped, role: str) -> str:
    names = mapped.cells.obs.loc[mapped.cells.obs["role"] == role, "batch"].unique()
    return f"{len(names)} batch{'es' if len(names) > 1 else ''}"


def _table(scores: pd.DataFrame) -> str:
    head = "".join(f"<th>{_text(method)}</th>" for method in scores.index)
    rows = ""
    for column in scores:
        name, meaning = EXPLAINED[column]
        values = "".join(f"<td>{value:.3f}</td>" for value in scores[column])
        rows += f"<tr><th>{name}<small>{meaning}</small></th>{values}</tr>"
    return f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _figure(heading: str, picture: str, caption: str, subtype: str = "png") -> str:
    return (
        f'<h2>{heading}</h2><figure><img alt="{_text(caption)}" src="data:image/{subtype};base64,{picture}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _tree_section(mapped: Mapped) -> list[str]:
    """The tree with the reference's cells, how well it names the query's, and how many it calls what."""
    tree, query = mapped.tree, mapped.cells.obs[mapped.cells.obs["role"] == "query"]
    picture = base64.b64encode(tree_picture(tree, "svg")).decode()
    caption = (
        f"Learned from the labels of {_batches(mapped, 'reference')} in the latent space: labels of one type share a "
        "node, and coarse ones stand above finer ones. The numbers are the reference's cells."
    )
    counted = tree.counted_labels()
    lost = [f"{row.label} ({row.dataset})" for row in counted[counted["node"].isna()].itertuples()]
    if lost:
        caption += f" Without a place: {listed(lost, 8)}."
    rows = ""
    for node in list(tree)[1:]:
        said = {name: [a.dataset for a in node.aliases if a.name == name and a.dataset] for name in node.names}
        labels = "; ".join(f"{name} ({', '.join(of)})" for name, of in said.items() if of)
        n = int((query["named"] == node.name).sum())
        name = "&emsp;" * (node.depth - 1) + _text(node.name)
        rows += f'<tr><th>{name}</th><td class="left">{_text(labels)}</td><td>{n:,}</td></tr>'
    n = int((~query["named"].isin([node.name for node in list(tree)[1:]])).sum())
    rows += f'<tr><th>not named</th><td class="left"></td><td>{n:,}</td></tr>'
    table = (
        '<div class="scroll"><table><thead><tr><th>Node</th><th class="left">Labels (batches)</th><th>Query cells</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return [_figure("Tree of types", picture, caption, "svg+xml"), f"<p>{_text(_how_named(tree, query))}</p>", table]


def _how_named(tree: Hierarchy, query: pd.DataFrame) -> str:
    """In words, how the tree's names agree with labels that the query came with."""
    given = query["tree_label"].map(tree.find)
    known = given.notna()
    text = f"The tree names {len(query):,} query cells, each as finely as its neighbours agree."
    if not known.any():
        return text
    pairs = list(zip(given[known], query.loc[known, "named"].map(tree.find)))
    exact = sum(true is called for true, called in pairs)
    coarser = sum(true.is_below(called) and not called.is_root for true, called in pairs)
    finer = sum(called.is_below(true) for true, called in pairs)
    none = sum(called.is_root for _, called in pairs)
    wrong = len(pairs) - exact - coarser - finer - none
    parts = {
        "named as given in the data": exact,
        "more coarsely": coarser,
        "more finely": finer,
        "not named": none,
        "named otherwise": wrong,
    }
    shares = ", ".join(f"{n / len(pairs):.1%} {words}" for words, n in parts.items() if n)
    f1 = hierarchical_f1([true.name for true, _ in pairs], [called.name for _, called in pairs], tree)
    return f"{text} Of {len(pairs):,} with a label that it knows: {shares}. Hierarchical F1: {f1:.3f}."


def _draw_curves(reference: Model, query: Model) -> str:
    drawn, axes = figure((10, 3.2), 2, dpi=DPI)
    for axis, model, title in zip(axes, (reference, query), ("reference", "query, after surgery")):
        history = model.history
        axis.set(title=title, xlabel="epoch", ylabel="loss per cell (nats)")
        for column, label, style in (("train", "training", "-"), ("val", "held out", "--")):
            if f"{column}_unweighted_loss" in history:
                axis.plot(
                    history[f"{column}_unweighted_loss"], style, label=label, color=COLOURS[0 if style == "-" else 1]
                )
        if len(history):
            axis.legend(frameon=False)
        else:
            axis.text(0.5, 0.5, "not trained", ha="center", transform=axis.transAxes)
    return _png(drawn)


def _draw_embedding(mapped: Mapped) -> str:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    chosen = _drawn(mapped)
    obs = mapped.cells.obs.iloc[chosen]
    z = mapped.cells.obsm["X_mapped"][chosen]
    tsne = TSNE(perplexity=min(30, (len(z) - 1) / 3), random_state=0, init="pca")
    with threadpool_limits(1, "openmp"):  # several threads wait for one another, for minutes where CPUs are shared
        position = tsne.fit_transform(z) if len(z) > 3 else z
    panels = [("reference and query", "role"), ("batch", "batch")]
    panels += [("given label", "label"), ("transferred label", "predicted")] if mapped.scores is not None else []
    drawn, axes = figure((10, 5 * ((len(panels) + 1) // 2)), len(panels), columns=2, dpi=DPI)
    names = sorted({*obs.get("label", ()), *obs.get("predicted", ())} - {""})
    for axis, (title, column) in zip(axes, panels):
        shared = names if column in ("label", "predicted") else None
        _scatter(axis, position, obs[column].astype(str), shared)
        axis.set(title=title)
    return _png(drawn)


def _embedding_caption(mapped: Mapped) -> str:
    drawn = f"{MOST_CELLS:,} cells chosen at random" if mapped.cells.n_obs > MOST_CELLS else "all cells"
    return f"t-SNE of the latent space, {drawn}. Distances between far groups mean little; scores are not taken here."


def _drawn(mapped: Mapped) -> np.ndarray:
    n = mapped.cells.n_obs
    return np.sort(np.random.default_rng(0).permutation(n)[:MOST_CELLS])


def _scatter(axis, position: np.ndarray, values: pd.Series, shared: list[str] | None) -> None:
    """Cells by group; `shared` gives the groups of two panels the same colours, cells without a value are grey."""
    names = shared or sorted(set(values) - {""})
    codes = pd.Categorical(values, categories=names).codes
    drawn = codes >= 0
    axis.scatter(*position[~drawn].T, s=3, color="#dddddd", linewidths=0)
    draw_groups(axis, position[drawn], codes[drawn], names, palette(len(names)))


def _draw_labels(mapped: Mapped) -> str:
    query = mapped.cells.obs[mapped.cells.obs["role"] == "query"]
    drawn, axes = figure((10, 4.2), 2, dpi=DPI)
    if (query["label"] != "").any():
        known = query[query["label"] != ""]
        table = pd.crosstab(known["label"], known["predicted"], normalize="index")
        image = axes[0].imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes[0].set_xticks(range(table.shape[1]), table.columns, rotation=90, fontsize=8)
        axes[0].set_yticks(range(table.shape[0]), table.index, fontsize=8)
        axes[0].set(xlabel="transferred", ylabel="given")
        drawn.colorbar(image, ax=axes[0], label="share of the row")
    else:
        counts = query["predicted"].value_counts().sort_values()
        axes[0].barh(counts.index, counts, color=COLOURS[0])
        axes[0].set(xlabel="query cells")
    axes[1].hist(query["uncertainty"], bins=np.linspace(0, 1, 41), color=COLOURS[0])
    axes[1].set(xlabel="uncertainty", ylabel="query cells", title="uncertainty of the transferred labels")
    return _png(drawn)


def _png(drawn) -> str:
    return base64.b64encode(picture_bytes(drawn)).decode()


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
