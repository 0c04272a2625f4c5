"""Every block of code that the README shows runs as it is printed; those that install are what CI itself runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import scarches_widgets as sca
from scarches_widgets.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
ROOT = Path(__file__).resolve().parents[1]
DONORS = ["donor1", "donor2", "donor3"]
TYPES = {"CD4 naive T": "CD4 T", "CD8 cytotoxic T": "CD8 T"}


def blocks(language: str, *words: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language and all(word in text for word in words)]


@pytest.fixture
def cells():
    """What the blocks take for granted: reference and query with batches, donors and types."""
    atlas = sca.datasets.atlas(n_obs=450, n_vars=60, n_batches=3, n_types=4, seed=1)
    atlas.obs["cell_type"] = atlas.obs["cell_type"].cat.rename_categories(TYPES)
    is_query = (atlas.obs["batch"] == "batch2").to_numpy()
    return {"adata": atlas[~is_query].copy(), "query": atlas[is_query].copy()}


def test_each_block_is_run_by_a_test_of_this_file_or_by_ci():
    commands = [line for text in blocks("bash") for line in text.splitlines()]
    assert len(blocks("python")) == 4
    assert {line.split(" && ")[-1].split()[0] for line in commands} == {
        ".venv/bin/scarches-widgets",
        ".venv/bin/python",
        "scarches-widgets",
        "torchrun",
    }
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    (before_a_proposal,) = blocks("bash", "ruff check")
    assert all(command in lines for command in before_a_proposal.strip().split(" && ")[:2])


@pytest.mark.slow
def test_a_query_is_mapped_at_once_and_from_its_file_and_a_tree_learned_as_printed(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mapping, in_chunks, tree = (
        text for word in ("weighted_knn_transfer", "map_query", "learn_tree") for text in blocks("python", word)
    )
    exec(mapping, cells)
    truth = cells["query"].obs["cell_type"].astype(str)
    given = cells["labels"]["cell_type"]
    assert (given == truth)[given != "Unknown"].mean() > 0.8
    assert cells["adata"].obsm["X_scvi"].shape == (cells["adata"].n_obs, 10)
    cells["adata"].write_h5ad("atlas.h5ad")
    cells["query"].write_h5ad("query.h5ad")
    exec(in_chunks, cells)
    named = cells["mapped"].labels()["cell_type"]
    assert named.index.equals(truth.index) and (named == truth).mean() > 0.7
    cells["adata"].obs["batch"] = cells["adata"].obs["batch"].map({"batch0": "donor1", "batch1": "donor2"})
    exec(tree, cells)
    assert {"CD4+ T cell", "CD8 T"} < {node.name for node in cells["tree"]}
    assert len(cells["labels"]) == cells["query"].n_obs == len(cells["probabilities"])


@pytest.mark.slow
def test_a_model_of_scvi_tools_is_fetched_and_adapted_as_printed(cells, tmp_path, monkeypatch):
    """Zenodo is not asked: in its place stands a folder that scvi-tools could have written."""
    atlas = cells["adata"]
    atlas.obs["dataset"] = atlas.obs["batch"]
    model = sca.models.SCANVI(
        atlas, batch_key="dataset", labels_key="cell_type", unlabeled_category="unlabeled", encode_covariates=True
    )
    model.train(max_epochs=5, progress=False)
    sca.hub.to_scvi_tools(model, tmp_path / "HLCA")
    asked = []
    monkeypatch.setattr(sca.hub.zenodo, "download_model", lambda *given: asked.append(given) or tmp_path / "HLCA")
    del cells["query"].obs["cell_type"]
    (block,) = blocks("python", "HLCA")
    exec(block, {**cells, "sca": sca})
    assert asked == [("https://zenodo.org/record/7599104/files/HLCA_reference_model.zip", "models")]
    assert isinstance(cells["query"].obs["cell_type"], pd.Series)
    assert set(cells["query"].obs["cell_type"]) <= set(atlas.obs["cell_type"])


@pytest.mark.slow
def test_the_shells_commands_run_as_printed(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells["adata"].write_h5ad("atlas.h5ad")
    cells["query"].write_h5ad("query.h5ad")
    (block,) = blocks("bash", "scarches-widgets map")
    for line in block.splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0
    assert (tmp_path / "mapped" / "report.html").is_file()


@pytest.mark.slow
def test_two_processes_train_by_the_command_as_printed(cells, tmp_path):
    cells["adata"].write_h5ad(tmp_path / "atlas.h5ad")
    (command,) = blocks("bash", "torchrun")
    torchrun, *arguments = shlex.split(command)
    assert torchrun == "torchrun"  # a script beside the interpreter, which need not be on the PATH
    words = [sys.executable, "-m", "torch.distributed.run", *arguments, "--train", "max_epochs=2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(sca.hub.load(tmp_path / "trained", cells["adata"]).history) == 2


def test_scripts_of_the_comparison_exist_and_take_the_options_that_it_names():
    named = re.findall(r"`(bench_\w+\.py)((?: --\w+ \w+)?)`", README)
    assert len(named) > 8
    for script, option in named:
        text = (ROOT / "tests" / "benchmarks" / script).read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in option.split())


def test_the_table_says_of_every_model_when_to_take_it():
    table = README.partition("## Which model")[2].partition("What helps")[0]
    assert all(f"`{name}`" in table for name in sca.models.__all__)


def test_files_that_it_links_to_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert links and set(links) <= set(tracked)
