"""The hub of models without a browser: cards, do cells fit, search, download, load, share; where no token is left."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import pytest
from ipywidgets import Widget
from pages import click, nothing_raised, wait_until
from small import QUICK, SMALL, fingerprint
from zenodo_server import FakeZenodo

import scarches_widgets as sca
from scarches_widgets.hub import transfer, zenodo
from scarches_widgets.hub.secret import Secret
from scarches_widgets.widgets import ModelHub, Session

TOKEN = FakeZenodo.token
AUTHOR = "Last, First"
EVIL = "<img src=x onerror=h()>\u202e"


@pytest.fixture(scope="session")
def scvi(atlas):
    """A small scVI. Tests do not change it."""
    model = sca.models.SCVI(atlas[atlas.obs["batch"] != "batch2"].copy(), batch_key="batch", **SMALL)
    model.train(**QUICK)
    return model


@pytest.fixture
def folder(scvi, tmp_path, monkeypatch):
    """A folder "models" in the working directory, with one model in it."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    sca.hub.save(scvi, "models/atlas", title="An atlas")
    return Path("models")


@pytest.fixture
def record(server, scvi) -> str:
    """Link of a record with a model and its card."""
    identifier = server.add(title="A lung atlas", creators=[{"name": AUTHOR}], description="of <b>cells</b>")
    zenodo.upload_model(scvi, identifier, TOKEN, "lung", progress=False)
    server.drafts[identifier]["submitted"] = True
    server.requests.clear()
    return f"{server.address}/records/{identifier}"


def hub_of(*arguments, **options) -> ModelHub:
    hub = ModelHub(*arguments, **options)
    hub.wait(30)
    return hub


def asked(hub, op, token=None, **content):
    """Send a command, with the token as a page sends it, and wait for what it starts."""
    data = {"method": "custom", "content": {"op": op, **content}}
    with nothing_raised():
        hub._handle_msg({"content": {"data": data}, "buffers": [memoryview(token.encode())] if token else []})
    return hub.wait(30)


def search(hub, text="lung"):
    asked(hub, "search", text=text, site=zenodo.current_site().web)
    return hub.remote


# Models of this machine


def test_the_models_of_a_folder_are_cards_with_what_fits(folder, query_cells):
    hub = hub_of(folder, query_cells)
    (card,) = hub.local
    assert hub.status == "ready" and hub.facts == "1 model in models · query: 92 cells × 40 genes"
    assert card["title"] == "An atlas" and card["facts"] == ["SCVI", "40 genes", "2 batches", "208 cells"]
    assert card["fit"]["verdict"] == "fits" and card["fit"]["overlap"] == 1
    assert card["digest"] == hub.cards["atlas"].digest and "2 batches" not in card["text"]


def test_without_a_query_nothing_is_compared_and_a_new_one_is_compared_on_refresh(folder, query_cells):
    hub = hub_of(folder)
    assert hub.local[0]["fit"] is None and not hub.has_query
    hub.query = query_cells
    asked(hub, "refresh")
    assert hub.local[0]["fit"]["verdict"] == "fits" and hub.has_query
    foreign = query_cells.copy()
    foreign.var_names = [f"mouse {i}" for i in range(40)]
    hub.query = foreign
    hub.refresh()
    hub.wait(30)
    assert hub.local[0]["fit"]["verdict"] == "unfit" and hub.local[0]["fit"]["errors"]


def test_folders_without_cards_of_others_and_damaged_ones_are_told_apart(folder, scvi):
    scvi.save(folder / "no card")
    for name, file in (("theirs", "model.pt"), ("older", "attr.pkl"), ("data", "cells.csv")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(b"x")
    sca.hub.save(scvi, folder / "damaged")
    text = (folder / "damaged" / "card.json").read_text()
    (folder / "damaged" / "card.json").write_text(text.replace("scVI", "scVi").replace("SCVI", "SCVl"))
    hub = hub_of(folder)
    cards = {card["folder"]: card for card in hub.local}
    assert list(cards) == ["atlas", "damaged", "no card", "older", "theirs"]
    assert "was changed" in cards["damaged"]["problem"] and not cards["damaged"]["loadable"]
    assert cards["no card"]["loadable"] and cards["no card"]["shareable"] and cards["no card"]["title"] == "no card"
    assert [cards[name]["kind"] for name in ("older", "theirs")] == ["scvi-tools or scArches", "scvi-tools"]
    assert not cards["theirs"]["shareable"]


def test_a_folder_that_is_not_there_is_empty_and_one_that_is_a_model_is_refused(folder):
    hub = hub_of("nowhere")
    assert (hub.status, hub.local, os.path.exists("nowhere")) == ("empty", [], False)
    with pytest.raises(ValueError, match=r"ModelHub\('models'\)"):
        ModelHub("models/atlas")
    with pytest.raises(TypeError, match="was given a str"):
        ModelHub("models", "cells.h5ad")


def test_a_model_is_loaded_into_the_session(folder, scvi):
    session = Session()
    hub = hub_of(folder, session=session)
    assert asked(hub, "load", key="local:atlas") == "done"
    assert fingerprint(session.model) == fingerprint(scvi) and hub.model is session.model
    assert hub.loaded == "local:atlas" and hub.work["words"].startswith("Loaded: SCVI of 40 genes.")


def test_a_hub_that_looks_through_its_folder_still_knows_what_is_asked_of_it_by_name(folder):
    hub = ModelHub(folder)
    hub.edit("atlas", title="Another title")
    assert hub.wait(30) and hub.local[0]["title"] == "Another title"
    with pytest.raises(ValueError, match="no model 'atlsa' in 'models'"):
        hub.load("atlsa")


def test_a_model_without_a_card_is_compared_once_it_is_loaded(folder, scvi, query_cells):
    scvi.save(folder / "no card")
    hub = hub_of(folder, query_cells)
    assert hub.local[1]["fit"] is None
    asked(hub, "load", key="local:no card")
    assert hub.local[1]["fit"]["verdict"] == "fits"


def test_a_damaged_model_is_not_loaded_and_the_page_is_told_why(folder):
    path = folder / "atlas" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    hub = hub_of(folder)
    assert asked(hub, "load", key="local:atlas") == "failed"
    assert "model.safetensors" in hub.error["what"] and hub.model is None


def test_a_card_is_edited_in_its_folder(folder):
    hub = hub_of(folder)
    asked(hub, "choose", key="local:atlas")
    assert hub.editing["title"] == "An atlas"
    asked(hub, "edit", key="local:atlas", title="Our atlas", text="Please cite us.")
    card = sca.hub.read_card(folder / "atlas")
    assert (card.title, card.text, hub.editing["text"]) == ("Our atlas", "Please cite us.", "Please cite us.")
    asked(hub, "edit", key="local:atlas", title=" ", text="")
    assert hub.error["what"] == "A card needs a title." and hub.local[0]["title"] == "Our atlas"
    asked(hub, "edit", key="local:atlas", title="x" * 201, text="")
    assert "200 are the most" in hub.error["mend"] + hub.error["what"]


# Zenodo's


def test_nothing_is_asked_of_a_server_before_a_click(server, folder, query_cells):
    hub_of(folder, query_cells)
    assert server.requests == []


def test_a_record_is_compared_with_the_cells_before_its_model_is_fetched(server, record, folder, query_cells):
    hub = hub_of(folder, query_cells)
    (card,) = search(hub)
    assert (card["title"], card["text"], card["by"]) == ("A lung atlas", "of cells", AUTHOR)
    assert card["fit"]["verdict"] == "fits"
    assert card["here"] == "atlas", "the same model lies in the folder, under another name"
    (file,), content = card["files"], server.content[record.rpartition("/")[2]]
    assert file["size"] == len(content["scarches-lung.zip"]) and len(file["md5"]) == 32
    assert server.count(r"\.zip") == 0
    assert [one.link for one in hub.records] == [record]


def test_a_download_is_checked_listed_and_can_be_loaded_and_its_code_does_the_same(
    server, record, folder, query_cells, scvi, monkeypatch
):
    hub = hub_of(folder, query_cells)
    search(hub)
    assert asked(hub, "download", key=f"remote:{record}", file="scarches-lung.zip") == "done"
    assert [card["folder"] for card in hub.local] == ["atlas", "scarches-lung"]
    assert hub.work["words"] == f"Downloaded and checked: it is in {Path('models/scarches-lung')}."
    wait_until(lambda: hub.local[1]["fit"] and hub.local[1]["fit"] != "checking")
    assert hub.remote[0]["files"][0]["taken"] and hub.remote[0]["here"]
    asked(hub, "load", key="local:scarches-lung")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    names = {"query": query_cells}
    with mock.patch("builtins.print") as told:
        exec(hub.code(), names)
    assert fingerprint(names["model"]) == fingerprint(scvi) and len(names["records"]) == 1
    assert "fits" in str(told.call_args)


def test_a_download_is_stopped_and_goes_on_where_it_was(server, record, folder, monkeypatch):
    hub = hub_of(folder)
    (card,) = search(hub)
    monkeypatch.setattr(transfer, "BLOCK", 2048)
    fetch = zenodo.download_model

    def stopping(*arguments, progress, **options):
        def tell(done, total):
            progress(done, total)
            if done < total / 2:
                click(hub, "cancel")

        return fetch(*arguments, progress=tell, **options)

    with mock.patch.object(zenodo, "download_model", stopping):
        assert asked(hub, "download", key=card["key"], file="scarches-lung.zip") == "stopped"
    assert "which are kept" in hub.work["words"]
    assert 0 < hub.remote[0]["files"][0]["begun"] < card["files"][0]["size"]
    server.requests.clear()
    assert asked(hub, "download", key=card["key"], file="scarches-lung.zip") == "done"
    assert any("Range" in headers for _, _, headers in server.requests)
    assert hub.remote[0]["files"][0]["begun"] == 0


def test_while_one_thing_is_done_no_other_can_be_begun_and_the_kernel_is_free(server, record, folder):
    hub = hub_of(folder)
    (card,) = search(hub)
    under_way, go_on = threading.Event(), threading.Event()

    def slow(*arguments, progress, cancel, **options):
        progress(1000, 4000)
        under_way.set()
        go_on.wait(30)
        return "models/atlas"

    with mock.patch.object(zenodo, "download_model", slow):
        click(hub, "download", key=card["key"], file="scarches-lung.zip")
        assert under_way.wait(30)
        wait_until(lambda: hub.work.get("total") == 4000)
        assert (hub.status, hub.work["done"]) == ("running", 1000)
        assert hub.work["stage"] == "Downloading scarches-lung.zip"
        click(hub, "load", key="local:atlas")
        assert "is under way" in hub.error["what"] and hub.model is None
        click(hub, "cancel")
        assert hub.status == "stopping"
        go_on.set()
        hub.wait(30)


def test_what_is_there_is_replaced_only_when_that_was_said(server, record, folder):
    hub = hub_of(folder)
    (card,) = search(hub)
    asked(hub, "download", key=card["key"], file="scarches-lung.zip")
    assert asked(hub, "download", key=card["key"], file="scarches-lung.zip") == "failed"
    assert "is there already" in hub.error["what"]
    assert asked(hub, "download", key=card["key"], file="scarches-lung.zip", overwrite=True) == "done"


def test_a_record_whose_card_is_another_models_is_told(server, record, folder, atlas):
    other = sca.models.SCVI(atlas.copy(), batch_key="batch", **SMALL)
    sca.hub.save(other, "other")
    files = server.content[record.rpartition("/")[2]]
    files["scarches-lung.card.json"] = Path("other/card.json").read_bytes()
    hub = hub_of(folder)
    (card,) = search(hub)
    assert card["facts"][2] == "3 batches"
    assert asked(hub, "download", key=card["key"], file="scarches-lung.zip") == "failed"
    assert "another model than the record's card describes" in hub.error["what"]


def test_a_search_that_fails_says_so_and_can_be_tried_again(server, record, folder):
    hub = hub_of(folder)
    server.fail("GET /api/records", status=400)
    assert search(hub) == [] and hub.finding["state"] == "failed" and "400" in hub.finding["problem"]
    assert len(search(hub)) == 1 and hub.finding["state"] == "done"
    asked(hub, "search", text=" ", site=zenodo.current_site().web)
    assert hub.error["what"] == "There is nothing to search for."
    asked(hub, "search", text="lung", site="https://evil.example")
    assert "is none of the places" in hub.error["what"]


def test_a_page_of_records_follows_another(server, folder):
    for i in range(13):
        server.add(submitted=True, title=f"lung {i}")
    hub = hub_of(folder)
    assert len(search(hub)) == 10 and hub.finding["more"]
    asked(hub, "search", more=True)
    assert len(hub.remote) == 13 and not hub.finding["more"] and "page=2" in hub.code()


def test_a_later_search_takes_the_place_of_an_earlier_one(server, record, folder):
    server.fail("GET /api/records", seconds=0.3)
    hub = hub_of(folder)
    click(hub, "search", text="cells that nobody has", site=server.address)
    assert len(search(hub)) == 1 and hub.finding["text"] == "lung"


def test_a_search_does_not_wait_until_the_cells_are_compared(server, record, folder, query_cells):
    go_on = threading.Event()
    with mock.patch("scarches_widgets.widgets.model_hub_entries.compatibility", side_effect=lambda *_: go_on.wait(30)):
        hub = ModelHub(folder, query_cells)
        click(hub, "search", text="lung", site=server.address)
        wait_until(lambda: hub.finding["state"] == "done" and hub.remote)
        assert hub.local[0]["fit"] == "checking"
        go_on.set()
        hub.wait(30)


def test_texts_of_strangers_are_cut_and_show_what_they_hide(server, folder):
    server.add(submitted=True, title=f"lung {EVIL}", description="x\xa0y" + "z" * 10_000, creators=[{"name": EVIL}])
    hub = hub_of(folder)
    (card,) = search(hub)
    assert card["title"] == "lung <img src=x onerror=h()>\\u202e" and "\u202e" not in card["by"]
    assert card["text"].startswith("x y") and len(card["text"]) == 4000
    assert "<img" not in hub._static_html()


# Sharing


def draft_of(hub, token=TOKEN, **content):
    asked(hub, "choose", key="local:atlas")
    return asked(hub, "upload", token, key="local:atlas", creators=[AUTHOR], **content)


def test_a_model_goes_to_a_draft_and_is_public_only_after_a_second_step(server, folder):
    hub = hub_of(folder)
    assert draft_of(hub, title="Our atlas", text="Cite us,\nif <you> like.", file_name="our") == "done"
    draft = server.drafts[hub.draft["id"]]
    assert (hub.draft["state"], draft["submitted"]) == ("filled", False)
    assert hub.draft["link"] == f"{server.address}/deposit/{draft['id']}" and "not public yet" in hub.work["words"]
    assert draft["metadata"]["description"] == "Cite us,<br>if &lt;you&gt; like."
    assert sca.hub.read_card(server.content[draft["id"]]["scarches-our.card.json"]).title == "Our atlas"
    assert asked(hub, "publish", TOKEN, title="our atlas") == "failed" and not draft["submitted"]
    assert "Nothing was published" in hub.error["what"]
    assert asked(hub, "publish", TOKEN, title="Our atlas") == "done" and draft["submitted"]
    assert hub.draft["state"] == "public" and hub.draft["link"].endswith(f"/records/{draft['id']}")


def test_a_draft_whose_title_was_changed_on_its_page_is_published_by_that(server, folder):
    hub = hub_of(folder)
    draft_of(hub)
    server.drafts[hub.draft["id"]]["metadata"]["title"] = "A better title"
    assert asked(hub, "publish", TOKEN, title="A better title") == "done"


def test_a_model_without_a_card_is_given_one_as_it_is_uploaded(server, folder, scvi):
    scvi.save(folder / "no card")
    hub = hub_of(folder)
    asked(hub, "choose", key="local:no card")
    assert asked(hub, "upload", TOKEN, key="local:no card", creators=[AUTHOR], title="No card") == "done"
    files = server.content[hub.draft["id"]]
    assert list(files) == ["scarches-no_card.zip", "scarches-no_card.card.json"]
    assert server.drafts[hub.draft["id"]]["metadata"]["title"] == "No card"
    assert not (folder / "no card" / "card.json").exists()


def test_the_code_of_an_upload_does_the_same_without_the_token(server, folder, monkeypatch):
    hub = hub_of(folder)
    draft_of(hub, title="Our atlas", text="Cite us.")
    asked(hub, "publish", TOKEN, title="Our atlas")
    code = hub.code()
    assert TOKEN not in code and "ZENODO_SANDBOX_TOKEN" in code
    monkeypatch.setenv("ZENODO_SANDBOX_TOKEN", TOKEN)
    exec(code, {})
    first, second = server.drafts.values()
    assert second["submitted"] and second["metadata"] == first["metadata"]
    assert list(server.content[second["id"]]) == list(server.content[first["id"]])


def test_an_upload_that_fails_goes_on_in_the_same_draft(server, folder):
    hub = hub_of(folder)
    server.fail("PUT /api/files", status=400)
    assert draft_of(hub) == "failed"
    assert hub.draft["state"] == "begun" and "400" in hub.error["what"]
    asked(hub, "publish", TOKEN, title="An atlas")
    assert "no draft with a model" in hub.error["what"]
    draft_of(hub, file_name="another")
    assert "has the model as 'atlas'" in hub.error["what"]
    assert draft_of(hub) == "done"
    assert len(server.drafts) == 1 and hub.draft["state"] == "filled"
    asked(hub, "forget")
    assert hub.draft == {} and draft_of(hub) == "done" and len(server.drafts) == 2


@pytest.mark.parametrize("token", [None, "XYZ-wrong", "two\nlines", "x" * 1001])
def test_without_the_right_token_nothing_is_uploaded_and_it_is_not_repeated(server, folder, token):
    hub = hub_of(folder)
    draft_of(hub, token)
    assert hub.error and server.drafts == {} and not hub.draft
    assert token is None or token not in str(hub.error)


def test_on_binder_no_token_is_taken(server, folder, monkeypatch):
    monkeypatch.setenv("BINDER_SERVICE_HOST", "x")
    hub = hub_of(folder)
    assert hub.target["on_binder"] and draft_of(hub) == "failed"
    assert "This is Binder" in hub.error["what"] and server.requests == []


def test_the_sandbox_is_where_models_go_unless_it_is_told_otherwise(folder, monkeypatch):
    hub = hub_of(folder)
    assert hub.target["name"] == "sandbox.zenodo.org" and hub.target["sandbox"]
    assert [name for _, name in hub.sites] == ["zenodo.org", "sandbox.zenodo.org"]
    assert hub.finding["site"] == "https://zenodo.org"
    zenodo.configure(sandbox=False)
    asked(hub, "refresh")
    assert hub.target["name"] == "zenodo.org" and not hub.target["sandbox"]
    zenodo.configure()


def everything_kept(hub, tmp_path) -> str:
    """All that outlives a click: states of all widgets, pictures, code, files, arguments of this process."""
    states = json.dumps(Widget.get_manager_state(), default=repr)
    kept = [states, repr(hub), repr(vars(hub)), str(hub.trait_values()), hub.code(), hub._static_html(), hub._summary()]
    kept += [path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file()]
    return "\n".join([*kept, Path("/proc/self/cmdline").read_text() if os.path.exists("/proc/self") else ""])


def secrets() -> list:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Secret]


def test_a_token_is_in_no_state_file_log_or_error(server, folder, tmp_path, caplog, monkeypatch):
    """Typed into the page: into an upload that works, one that fails with an echo, and a publication."""
    messages, before = [], secrets()
    monkeypatch.setattr(ModelHub, "send", lambda self, content, buffers=None: messages.append((content, buffers)))
    caplog.set_level(logging.DEBUG)
    hub = hub_of(folder)
    sent = mock.patch.object(hub.comm, "send", side_effect=lambda *a, **k: messages.append((a, k)))
    with sent, mock.patch("sys.excepthook") as hook:
        server.fail("POST /api/deposit", status=403)  # repeats the token in its answer
        assert draft_of(hub) == "failed"
        assert "***" in str(hub.error), "the server's words are shown, without the token"
        kept = str(hub.error)
        draft_of(hub)
        asked(hub, "publish", TOKEN, title="An atlas")
        export = hub.export_html(tmp_path / "hub.html").read_text()
    assert server.count("POST") == 3 and hub.draft["state"] == "public" and not hook.called
    kept += everything_kept(hub, tmp_path) + export + caplog.text + str([record.args for record in caplog.records])
    kept += str(messages) + "".join(repr(thread) for thread in threading.enumerate())
    assert TOKEN not in kept and "An atlas" in kept
    # it is kept for one upload or one publication: until their thread, which has told its outcome, ends
    wait_until(lambda: not [one for one in secrets() if one not in before])


def test_the_kernel_that_keeps_the_last_message_keeps_no_token(server, folder, caplog):
    """Jupyter logs the text of messages when debugging; so the token comes as bytes beside it, and is taken away."""
    caplog.set_level(logging.DEBUG)
    hub = hub_of(folder)
    data = {"method": "custom", "content": {"op": "publish", "title": "An atlas"}}
    message = {"content": {"data": data}, "buffers": [memoryview(TOKEN.encode())]}
    logging.getLogger("comm").debug("handle_msg[%s](%s)", "…", message)
    hub._handle_msg(message)
    assert message["buffers"] == [] and TOKEN not in str(message) and TOKEN not in caplog.text


# A forger, pictures


@pytest.mark.parametrize(
    "content",
    [
        {"op": "load", "key": "local:../../etc"},
        {"op": "load", "key": "remote:x"},
        {"op": "load", "key": ["local:atlas"]},
        {"op": "load"},
        {"op": "edit", "key": "local:atlas", "title": 3, "text": None},
        {"op": "edit", "key": "local:atlas", "title": "x", "text": "y" * 200_000},
        {"op": "download", "key": "local:atlas", "file": "scarches-lung.zip"},
        {"op": "download", "key": "remote:https://zenodo.org/records/1", "file": "x.zip"},
        {"op": "upload", "key": "local:atlas", "creators": 7},
        {"op": "upload", "key": "local:atlas", "creators": []},
        {"op": "upload", "key": "local:atlas", "creators": [{}]},
        {"op": "publish", "title": ["An atlas"]},
        {"op": "search", "text": "x" * 400, "site": "https://zenodo.org"},
        {"op": "search", "more": True},
        {"op": "check", "key": None},
        {"op": "choose", "key": "local:nothing"},
    ],
    ids=str,
)
def test_what_a_page_would_never_send_does_nothing_but_say_so(server, folder, content):
    hub = hub_of(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with nothing_raised():
        click(hub, **content)
    hub.wait(30)
    assert hub.error and hub.model is None and hub.draft == {} and server.requests == []
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_saved_notebook_lists_the_models_with_size_and_checksum(folder, query_cells):
    hub = hub_of(folder, query_cells)
    text = hub._static_html()
    assert "An atlas" in text and f"SHA-256 {hub.cards['atlas'].digest}" in text and "fits (100% of the genes)" in text
    assert "An atlas" in "".join(ElementTree.fromstring(hub.snapshot("svg").data).itertext())
    assert hub.snapshot("png").data.startswith(b"\x89PNG")
    assert hub._summary() == "Model hub: 1 model in models · query: 92 cells × 40 genes."
