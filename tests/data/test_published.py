"""Published data sets come from a server on loopback here; what it is asked for is counted."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from scarches_widgets import datasets
from scarches_widgets.data.names import DataError


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file's bytes; files are kept in `tmp_path / "cache"`."""
    monkeypatch.setenv("SCARCHES_WIDGETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    datasets.atlas(n_obs=60, n_vars=40, n_batches=2, n_types=4).write_h5ad(tmp_path / "written.h5ad")
    return (tmp_path / "written.h5ad").read_bytes()


@pytest.fixture
def host(file):
    """Serves the file as /pbmc.h5ad, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            found = self.path == "/pbmc.h5ad"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(file) if found else 0))
            self.end_headers()
            self.wfile.write(file if found else b"")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_data_set_is_downloaded_once_and_then_read_from_this_machine(host, file, tmp_path):
    url = f"{host.url}/pbmc.h5ad"
    first = datasets.published(url, sum_of(file), name="blood.h5ad", progress=False)
    host.shutdown()
    again = datasets.published(url, sum_of(file).upper(), name="blood.h5ad")
    assert host.asked == ["/pbmc.h5ad"] and first.shape == (60, 40)
    assert [path.name for path in (tmp_path / "cache" / "datasets").iterdir()] == ["blood.h5ad"]
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())


def test_who_cannot_download_is_told_which_file_to_put_where_and_it_is_then_read(host, file, tmp_path):
    place = tmp_path / "cache" / "datasets" / "pbmc.h5ad"
    url = f"{host.url}/moved/pbmc.h5ad"
    with pytest.raises(FileNotFoundError, match="it answered 404 Not Found"):
        datasets.published(url, sum_of(file), progress=False)
    host.shutdown()
    host.server_close()
    with pytest.raises(FileNotFoundError, match="ConnectionError") as told:
        datasets.published(url, sum_of(file), progress=False)
    assert f"download {url} and copy the file to '{place}'" in str(told.value)
    place.write_bytes(file)
    assert datasets.published(url, sum_of(file)).n_obs == 60


def test_a_file_with_another_sum_is_not_kept_and_one_that_is_there_not_replaced(host, file, tmp_path):
    folder = tmp_path / "cache" / "datasets"
    with pytest.raises(DataError, match=r"not the file that was asked for.*Nothing was kept"):
        datasets.published(f"{host.url}/pbmc.h5ad", "0" * 64, progress=False)
    assert not [*folder.iterdir()]
    (folder / "pbmc.h5ad").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"{sum_of(b'mine')}, not {sum_of(file)}"):
        datasets.published(f"{host.url}/pbmc.h5ad", sum_of(file), progress=False)
    assert (folder / "pbmc.h5ad").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("url", "sha256", "name", "told"),
    [
        ("http://zenodo.org/pbmc.h5ad", "0" * 64, None, "not of https"),
        ("file:///etc/passwd", "0" * 64, "passwd.h5ad", "not of https"),
        ("https://zenodo.org/pbmc.h5ad", "md5:1b2c", None, "64 hexadecimal digits"),
        ("https://figshare.com/files/34464122", "0" * 64, None, "name='pbmc.h5ad'"),
        ("https://zenodo.org/..%2F..%2Fpbmc.h5ad", "0" * 64, None, "no name of a .h5ad"),
        ("https://zenodo.org/pbmc.h5ad", "0" * 64, "../pbmc.h5ad", "no name of a .h5ad"),
    ],
)
def test_nothing_is_asked_for_that_could_not_be_checked_or_kept(url, sha256, name, told):
    with pytest.raises(ValueError, match=told):
        datasets.published(url, sha256, name=name)
