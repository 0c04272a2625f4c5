"""Publishing and fetching models, against a server that misbehaves as Zenodo and networks do."""

import hashlib
import logging
import os
import pickle
import socket
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest
from small import fingerprint
from zenodo_server import FakeZenodo

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.hub import transfer, zenodo
from scarches_widgets.hub.secret import Secret

TOKEN = FakeZenodo.token
QUIET = {"progress": False}
ABOUT = {"title": "An atlas", "description": "of <b>cells</b>", "creators": [{"name": "Last, First"}]}


@pytest.fixture
def draft(server) -> str:
    return server.add(title="An atlas", creators=[{"name": "Last, First"}])


@pytest.fixture
def published(server, draft, trained) -> str:
    """Id of a record with a model in it."""
    zenodo.upload_model(trained, draft, TOKEN, "atlas", **QUIET)
    server.drafts[draft]["submitted"] = True
    server.requests.clear()
    return draft


@pytest.fixture
def blob(tmp_path):
    """A file of three blocks and a bit."""
    path = tmp_path / "blob.csv"
    path.write_bytes(np.random.default_rng(0).bytes(3 * transfer.BLOCK + 77))
    return path


# ------------------------------------------------------------------------------------------------------ the whole way


def test_a_model_goes_to_a_draft_is_published_by_a_second_step_and_comes_back_the_same(server, trained, tmp_path):
    identifier = zenodo.create_deposition(TOKEN, **ABOUT)
    link = zenodo.upload_model(trained, identifier, TOKEN, "my atlas", **QUIET)
    assert link == f"{server.address}/deposit/{identifier}" and not server.drafts[identifier]["submitted"]
    assert set(server.content[identifier]) == {"scarches-my_atlas.zip", "scarches-my_atlas.card.json"}
    with pytest.raises(zenodo.TransferError, match="a draft is not public"):
        zenodo.download_model(link, tmp_path / "models", **QUIET)
    with pytest.raises(ValueError, match="'An atlas', not 'an atlas'"):
        zenodo.publish_deposition(identifier, TOKEN, title="an atlas")
    assert zenodo.publish_deposition(identifier, TOKEN, title="An atlas") == f"{server.address}/records/{identifier}"
    folder = zenodo.download_model(link, tmp_path / "models", **QUIET)
    assert fingerprint(sca.hub.load(folder)) == fingerprint(trained)
    assert sorted(os.listdir(tmp_path / "models")) == ["scarches-my_atlas"]


def test_the_upload_says_that_it_is_not_public_yet(server, draft, trained, caplog):
    with caplog.at_level(logging.WARNING):
        zenodo.upload_model(trained, draft, TOKEN, **QUIET)
    assert "not public yet" in caplog.text


def test_a_records_card_is_compared_with_my_cells_before_the_model_is_fetched(server, published, query_cells):
    (record,) = zenodo.search("atlas")
    assert (record.id, record.title, record.has_card) == (published, "An atlas", True)
    (archive,) = record.archives
    assert archive.size == len(server.content[published]["scarches-atlas.zip"]) and len(archive.md5) == 32
    card = zenodo.get_card(record)
    assert sca.hub.compatibility(query_cells, card).verdict == "fits"
    assert zenodo.get_card(f"{server.address}/records/{published}").digest == card.digest
    assert server.count(r"\.zip") == 0


def test_the_folder_of_a_saved_model_is_uploaded_with_its_edited_card(server, draft, trained, tmp_path):
    card = sca.hub.save(trained, tmp_path / "model")
    card.text = "Please cite us."
    card.save(tmp_path / "model")
    zenodo.upload_model(tmp_path / "model", draft, TOKEN, "x", **QUIET)
    assert sca.hub.read_card(server.content[draft]["scarches-x.card.json"]).text == "Please cite us."
    with pytest.raises(FileNotFoundError):
        zenodo.upload_model(tmp_path / "nowhere", draft, TOKEN, **QUIET)


def test_links_of_all_kinds_lead_to_the_record(server, published, tmp_path):
    links = [
        published,
        f"{server.address}/records/{published}",
        f"{server.address}/record/{published}/files/scarches-atlas.zip?download=1",
        f"{server.address}/api/records/{published}/files/scarches-atlas.zip/content",
    ]
    for i, link in enumerate(links):
        assert os.path.isdir(zenodo.download_model(link, tmp_path / str(i), **QUIET))
    assert zenodo._resolved("10.5281/zenodo.6337966")[:2] == (zenodo._Site(zenodo.ZENODO, zenodo._client), "6337966")
    assert zenodo._resolved("https://doi.org/10.5072/zenodo.7")[0].web == zenodo.SANDBOX


def test_what_was_fetched_before_is_only_replaced_when_asked(server, published, tmp_path):
    folder = zenodo.download_model(published, tmp_path, **QUIET)
    with pytest.raises(FileExistsError):
        zenodo.download_model(published, tmp_path, **QUIET)
    server.content[published]["scarches-atlas.zip"] = b"PK no archive"
    with pytest.raises(DamagedFile):
        zenodo.download_model(published, tmp_path, overwrite=True, **QUIET)
    sca.hub.load(folder)  # the former one is still there
    assert os.listdir(tmp_path) == [os.path.basename(folder)]


# ------------------------------------------------------------------------------------------------------------- drafts


def test_drafts_are_made_changed_listed_and_deleted(server):
    ids = [zenodo.create_deposition(TOKEN, **{**ABOUT, "title": f"draft {i}"}) for i in range(3)]
    assert zenodo.get_all_deposition_ids(TOKEN) == ids[::-1]
    zenodo.update_deposition(ids[0], TOKEN, {"metadata": {"title": "another"}})
    assert server.drafts[ids[0]]["metadata"]["title"] == "another"
    assert server.drafts[ids[0]]["metadata"]["creators"] == ABOUT["creators"]  # what is not named stays
    zenodo.delete_deposition(ids[0], TOKEN)
    assert zenodo.get_all_deposition_ids(TOKEN) == ids[:0:-1]


def test_all_pages_of_drafts_are_listed(server):
    made = [server.add(title=str(i)) for i in range(250)]
    assert zenodo.get_all_deposition_ids(TOKEN) == made[::-1]


def test_what_is_public_is_neither_changed_nor_deleted(server, published, blob):
    for change in (
        lambda: zenodo.delete_deposition(published, TOKEN),
        lambda: zenodo.update_deposition(published, TOKEN, {"title": "x"}),
        lambda: zenodo.upload_file(blob, published, TOKEN, **QUIET),
        lambda: zenodo.delete_file("scarches-atlas.zip", published, TOKEN),
    ):
        with pytest.raises(PermissionError, match="is public"):
            change()


def test_what_zenodo_misses_is_told_in_its_words(server, blob):
    draft = server.add(title="no creators")
    zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    with pytest.raises(zenodo.TransferError, match="creators: is required"):
        zenodo.publish_deposition(draft, TOKEN, title="no creators")


# -------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_sent_once_replaced_when_asked_and_deleted(server, draft, blob):
    seen = []
    link = zenodo.upload_file(blob, draft, TOKEN, progress=lambda done, total: seen.append((done, total)))
    size = blob.stat().st_size
    assert seen[-1] == (size, size) and len(seen) == 4
    assert link == f"{server.address}/records/{draft}/files/blob.csv?download=1"
    zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    assert server.count("PUT /api/files") == 1
    blob.write_bytes(b"another")
    with pytest.raises(FileExistsError):
        zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    zenodo.upload_file(blob, draft, TOKEN, overwrite=True, **QUIET)
    assert server.content[draft] == {"blob.csv": b"another"}
    zenodo.delete_file("blob.csv", draft, TOKEN)
    assert server.content[draft] == {}
    with pytest.raises(FileNotFoundError):
        zenodo.delete_file("blob.csv", draft, TOKEN)


@pytest.mark.parametrize("name", ["../x", "a b", "", ".hidden", "x?y", "a/b", "é.csv"])
def test_a_strange_file_name_is_not_sent(server, draft, blob, name):
    with pytest.raises(ValueError, match="no file name"):
        zenodo.upload_file(blob, draft, TOKEN, name=name, **QUIET)


STEPS = [
    ("GET /api/deposit/depositions", lambda d, b: zenodo.upload_file(b, d, TOKEN, **QUIET)),
    ("PUT /api/files", lambda d, b: zenodo.upload_file(b, d, TOKEN, **QUIET)),
    ("PUT /api/deposit", lambda d, b: zenodo.update_deposition(d, TOKEN, {"title": "new"})),
    ("DELETE /api/deposit", lambda d, b: zenodo.delete_deposition(d, TOKEN)),
]
TROUBLE = {
    "500": {"status": 500},
    "504, as a web page": {"status": 504, "page": True},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "an answer that is cut": {"cut": 5},
    "an answer that is lost": {"status": 502, "after_work": True},
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.parametrize(("step", "act"), STEPS, ids=[step for step, _ in STEPS])
def test_every_step_survives_trouble_and_does_its_work_once(server, draft, blob, step, act, trouble):
    server.fail(f"^{step}", times=2, **trouble)
    act(draft, blob)
    assert not server.faults or trouble.get("after_work") or "cut" in trouble
    if "upload" in str(act.__code__.co_names):
        assert server.content[draft] == {"blob.csv": blob.read_bytes()}
    elif step.startswith("DELETE"):
        assert draft not in server.drafts
    else:
        assert server.drafts[draft]["metadata"]["title"] == "new"


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_a_draft_is_begun_once_and_a_record_published_once_whatever_happens_to_the_answer(server, blob, trouble):
    server.fail("^POST /api/deposit/depositions$", **trouble)
    identifier = zenodo.create_deposition(TOKEN, **ABOUT)
    assert list(server.drafts) == [identifier]
    zenodo.upload_file(blob, identifier, TOKEN, **QUIET)
    server.fail("actions/publish", **trouble)
    try:
        zenodo.publish_deposition(identifier, TOKEN, title="An atlas")
    except zenodo.TransferError:
        assert not server.drafts[identifier]["submitted"]
        zenodo.publish_deposition(identifier, TOKEN, title="An atlas")
    assert server.drafts[identifier]["submitted"]


def test_a_file_that_arrives_damaged_is_sent_again_and_never_left_there(server, draft, blob):
    server.fail("PUT /api/files", wrong_md5=True)
    zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    assert server.content[draft] == {"blob.csv": blob.read_bytes()}
    blob.write_bytes(b"second")
    server.fail("PUT /api/files", times=2, wrong_md5=True)
    with pytest.raises(zenodo.TransferError, match="arrived damaged twice"):
        zenodo.upload_file(blob, draft, TOKEN, overwrite=True, **QUIET)
    assert server.content[draft] == {}


def test_a_server_that_stays_ill_is_given_up_and_a_long_wait_is_told(server, draft, blob):
    server.fail("PUT /api/files", times=5, status=503)
    with pytest.raises(zenodo.TransferError, match=r"503 .*Tried 5 times"):
        zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    assert not server.faults
    server.fail("PUT /api/files", status=429, headers={"Retry-After": "4000"})
    with pytest.raises(zenodo.TransferError, match="asks to wait for 4,000 seconds"):
        zenodo.upload_file(blob, draft, TOKEN, **QUIET)


def test_retry_after_is_obeyed(server, draft, blob, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer, "_wait", lambda seconds, *rest: pauses.append(seconds))
    server.fail("PUT /api/files", status=429, headers={"Retry-After": "7"})
    server.fail("PUT /api/files", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    assert pauses == [7.0, 0.0]


# ---------------------------------------------------------------------------------------------------------- downloads


def record_of(server, data: bytes) -> str:
    identifier = server.add(submitted=True, title="blob")
    server.content[identifier]["model.zip"] = data
    return identifier


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
@pytest.mark.parametrize("cut", [1, transfer.BLOCK, 2 * transfer.BLOCK + 5])
def test_a_download_that_breaks_is_resumed_to_the_same_bytes(server, blob, tmp_path, cut, ranges):
    server.supports_ranges = ranges
    identifier = record_of(server, blob.read_bytes())
    server.fail("/content", times=3, cut=cut)
    found = zenodo.download_model(identifier, tmp_path / "here", extract_dir=False, **QUIET)
    assert Path(found).read_bytes() == blob.read_bytes()
    assert os.listdir(tmp_path / "here") == ["model.zip"]
    asked = [headers for method, path, headers in server.requests if "/content" in path]
    assert asked[-1]["Range"].startswith("bytes=") and "If-Range" in asked[-1]


def test_a_connection_that_breaks_more_often_than_it_is_tried_still_ends_while_the_file_grows(server, blob, tmp_path):
    identifier = record_of(server, blob.read_bytes())
    server.fail("/content", times=12, cut=200_000)
    found = zenodo.download_model(identifier, tmp_path, extract_dir=False, **QUIET)
    assert Path(found).read_bytes() == blob.read_bytes()


def test_a_cancelled_download_goes_on_where_it_was(server, blob, tmp_path):
    identifier, cancel, seen = record_of(server, blob.read_bytes()), threading.Event(), []

    def progress(done, total):
        seen.append(done)
        cancel.set()

    with pytest.raises(zenodo.Cancelled, match="are kept"):
        zenodo.download_model(identifier, tmp_path, extract_dir=False, progress=progress, cancel=cancel)
    kept = (tmp_path / "model.zip.part").stat().st_size
    assert 0 < kept == seen[-1] < blob.stat().st_size and not (tmp_path / "model.zip").exists()
    found = zenodo.download_model(identifier, tmp_path, extract_dir=False, **QUIET)
    assert Path(found).read_bytes() == blob.read_bytes()
    assert server.requests[-1][2]["Range"] == f"bytes={kept}-"


def test_the_rest_of_another_file_is_noticed_and_fetched_anew(server, blob, tmp_path):
    identifier = record_of(server, blob.read_bytes())
    (tmp_path / "model.zip.part").write_bytes(b"x" * 1000)
    found = zenodo.download_model(identifier, tmp_path, extract_dir=False, **QUIET)
    assert Path(found).read_bytes() == blob.read_bytes()


def test_a_file_that_is_not_what_the_record_says_is_deleted(server, blob, tmp_path):
    identifier = record_of(server, blob.read_bytes())
    server.fail(f"GET /api/records/{identifier}$", wrong_md5=True)
    with pytest.raises(zenodo.TransferError, match="its MD5 differs"):
        zenodo.download_model(identifier, tmp_path / "a", extract_dir=False, **QUIET)
    with pytest.raises(zenodo.TransferError, match="its SHA-256 differs"):
        zenodo.download_model(identifier, tmp_path / "a", extract_dir=False, sha256="0" * 64, **QUIET)
    assert os.listdir(tmp_path / "a") == []
    sha256 = hashlib.sha256(blob.read_bytes()).hexdigest()
    zenodo.download_model(identifier, tmp_path / "a", extract_dir=False, sha256=sha256, **QUIET)


def test_an_archive_without_a_model_or_of_a_changed_one_is_not_kept(server, published, tmp_path):
    data = bytearray(server.content[published]["scarches-atlas.zip"])
    data[data.index(b"SCVI")] ^= 1  # the zip's own checksum notices
    server.content[published]["scarches-atlas.zip"] = bytes(data)
    with pytest.raises(DamagedFile):
        zenodo.download_model(published, tmp_path / "a", **QUIET)
    assert os.listdir(tmp_path / "a") == []


def test_a_slow_server_is_waited_for_and_a_silent_one_is_given_up(server, blob, tmp_path, monkeypatch):
    identifier = record_of(server, blob.read_bytes())
    server.fail("/content", seconds=0.3)
    zenodo.download_model(identifier, tmp_path, extract_dir=False, **QUIET)
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.1)
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    server.fail(f"GET /api/records/{identifier}$", times=2, seconds=1)
    with pytest.raises(zenodo.TransferError, match="TimeoutError"):
        zenodo.get_record(identifier)


# ---------------------------------------------------------------------------------------------------------- addresses


STRANGERS = [
    "file:///etc/passwd", "ftp://zenodo.org/records/1", "http://zenodo.org/records/1", "https://evil.org/records/1",
    "https://user@zenodo.org/records/1", "https://zenodo.org@evil.org/records/1", "https://zenodo.org.evil.org/records/1",
    "https://zenodo.org:8443/records/1", "https://127.0.0.1/records/1", "https://2130706433/records/1",
    "https://[::ffff:127.0.0.1]/records/1", "https://169.254.169.254/records/1", "https://zenodо.org/records/1",
    "10.1234/zenodo.5", "https://zenodo.org/communities/x", "../../etc", "https://zenodo.org/records/..%2f1",
]  # fmt: skip


@pytest.mark.parametrize("link", STRANGERS)
def test_no_other_address_is_gone_to(server, link, tmp_path):
    with pytest.raises(zenodo.RefusedAddress):
        zenodo.download_model(link, tmp_path, **QUIET)
    assert server.requests == []


@pytest.mark.parametrize("url", STRANGERS[:13])
def test_no_request_leaves_for_another_address(server, url):
    with pytest.raises(zenodo.RefusedAddress):
        zenodo._site.client.ask("GET", url)


@pytest.mark.parametrize("to", ["http://evil.org/x", "file:///etc/passwd", "https://127.0.0.1/x", "//evil.org/x"])
def test_a_redirect_is_looked_at_anew(server, published, tmp_path, to):
    server.fail("/content", redirect=to)
    with pytest.raises(zenodo.RefusedAddress):
        zenodo.download_model(published, tmp_path, **QUIET)


def test_a_redirect_within_the_site_is_followed_and_a_ring_of_them_is_not(server, published, tmp_path):
    path = f"/api/records/{published}/files/scarches-atlas.zip/content"
    server.fail("/content", redirect=path)
    zenodo.download_model(published, tmp_path, **QUIET)
    server.fail(f"records/{published}$", times=6, redirect=f"/api/records/{published}")
    with pytest.raises(zenodo.TransferError, match="leads on more than 5 times"):
        zenodo.get_record(published)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1%2"]
)
def test_a_known_name_that_leads_into_this_network_is_not_gone_to(monkeypatch, address):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: answer)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(zenodo.RefusedAddress, match="own network"):
        transfer.Client(zenodo.HOSTS).ask("GET", "https://zenodo.org/api/records/1")


@pytest.mark.parametrize(
    "base", ["http://zenodo.org/api", "http://10.0.0.1/api", "ftp://127.0.0.1/api", "https://u@x/api"]
)
def test_no_other_base_address_is_taken(base):
    with pytest.raises(zenodo.RefusedAddress):
        zenodo.configure(base_url=base)
    assert zenodo._site.web == zenodo.SANDBOX  # the default


# -------------------------------------------------------------------------------------------------------------- token


def test_the_token_is_in_one_header_of_the_owners_requests_and_nowhere_else(server, draft, blob, published, tmp_path):
    zenodo.upload_file(blob, server.add(title="x"), TOKEN, **QUIET)
    zenodo.download_model(published, tmp_path / "models", **QUIET)
    for _, path, headers in server.requests:
        assert TOKEN not in path
        carriers = {name for name, value in headers.items() if TOKEN in value}
        assert carriers == ({"Authorization"} if re_owner(path) else set())


def re_owner(path: str) -> bool:
    return "/deposit/" in path or "/api/files/" in path


def test_no_error_tells_the_token_even_if_the_server_echoes_it(server, draft, blob, caplog):
    failures = [
        lambda: zenodo.upload_file(blob, draft, TOKEN, **QUIET),
        lambda: zenodo.create_deposition(TOKEN, **ABOUT),
        lambda: zenodo.publish_deposition(draft, TOKEN, title="An atlas"),
        lambda: zenodo.delete_deposition(draft, TOKEN),
    ]
    caplog.set_level(logging.DEBUG)
    for status in (400, 401, 403, 500):
        for fail in failures:
            server.faults.clear()
            server.fail("^(POST|PUT|DELETE)", times=20, status=status)
            with pytest.raises(zenodo.TransferError) as failure:
                fail()
            assert TOKEN not in everything_told(failure.value)
    assert TOKEN not in caplog.text


def test_a_dropped_connection_does_not_tell_the_token(server, draft, blob, monkeypatch):
    zenodo.configure(base_url=f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(zenodo.TransferError, match="ConnectionRefusedError") as failure:
        zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    assert TOKEN not in everything_told(failure.value)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def everything_told(error: BaseException) -> str:
    """All of a traceback with the values of its variables, as a notebook shows it in its most talkative mode; but for
    the frames of this test."""
    text = "".join(traceback.format_exception(error))
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if "scarches_widgets" in trace.tb_frame.f_code.co_filename or "http" in trace.tb_frame.f_code.co_filename:
                text += repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    # what this file itself wrote is the user's own
    return "\n".join(line for line in text.splitlines() if "TOKEN" not in line)


def test_a_secret_tells_nothing():
    import copy
    import json

    secret = Secret(TOKEN)
    for told in (repr(secret), str(secret), f"{secret}", repr([secret]), repr(copy.deepcopy({"t": secret}))):
        assert TOKEN not in told and "***" in told
    assert TOKEN.encode() not in pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps({"t": secret})
    for wrong in ("", "two\nlines", "é"):
        with pytest.raises(ValueError, match="A token is one line"):
            Secret(wrong)


def test_the_token_comes_from_the_environment_unless_it_is_passed(server, monkeypatch):
    with pytest.raises(ValueError, match="ZENODO_SANDBOX_TOKEN"):
        zenodo.create_deposition(title="x")
    monkeypatch.setenv("ZENODO_SANDBOX_TOKEN", TOKEN)
    assert zenodo.create_deposition(title="x") in server.drafts


def test_on_binder_nothing_is_uploaded_unless_forced(server, draft, blob, monkeypatch):
    monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    with pytest.raises(PermissionError, match="Binder"):
        zenodo.upload_file(blob, draft, TOKEN, **QUIET)
    zenodo.upload_file(blob, draft, TOKEN, force=True, **QUIET)


def test_the_pointer_page_names_zenodo():
    assert sca.utils.zenodo is sca.hub.zenodo is zenodo
