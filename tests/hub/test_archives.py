"""Archives of models: what is packed comes back, and everything else is refused with nothing left behind."""

import io
import os
import stat
import struct
import zipfile

import pytest

from scarches_widgets.data.container import DamagedFile
from scarches_widgets.hub import archives
from scarches_widgets.hub.archives import pack, unpack


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(os.urandom(5000))
    return folder


def zipped(*members, compression=zipfile.ZIP_STORED) -> bytes:
    """Members are pairs of a name (or ZipInfo) and bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return target.getvalue()


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def with_offset_of_first(data: bytes) -> bytes:
    """The second member's entry points at the first one's bytes."""
    second = data.rindex(b"PK\x01\x02")
    return data[: second + 42] + struct.pack("<L", 0) + data[second + 46 :]


def encrypted(data: bytes) -> bytes:
    entry = data.rindex(b"PK\x01\x02")
    return data[: entry + 8] + b"\x01\x00" + data[entry + 10 :]


def promising(data: bytes, size: int) -> bytes:
    entry = data.rindex(b"PK\x01\x02")
    return data[: entry + 24] + struct.pack("<L", size) + data[entry + 28 :]


def with_nul(data: bytes) -> bytes:
    return data.replace(b"a.json", b"a\0json")


def many(n: int) -> bytes:
    return zipped(*((f"{i}.json", b"") for i in range(n)))


HOSTILE = {
    "a parent folder": zipped(("../evil.json", b"x")),
    "two of them": zipped(("a/../../evil.json", b"x"), ("b.json", b"")),
    "an absolute name": zipped(("/tmp/evil.json", b"x")),
    "a drive": zipped(("C:evil.json", b"x")),
    "backslashes": zipped((zipfile.ZipInfo("..\\evil.json"), b"x")),
    "a NUL": with_nul(zipped(("a.json", b"x"))),
    "a hidden file": zipped((".bashrc", b"x")),
    "a module": zipped(("numpy.py", b"x")),
    "a path file": zipped(("evil.pth", b"x")),
    "a device's name": zipped(("con.json", b"x")),
    "a folder within a folder": zipped(("a/b/c.json", b"x")),
    "files in two folders": zipped(("a/x.json", b"x"), ("b/x.json", b"x")),
    "a link": zipped((link("model.json"), "/etc/passwd")),
    "a device": zipped((link("model.json", stat.S_IFCHR), b"")),
    "one name in two spellings": zipped(("model.json", b"x"), ("Model.json", b"y")),
    "a bomb": zipped(("model.json", bytes(30_000_000)), compression=zipfile.ZIP_DEFLATED),
    "an unusual compression": zipped(("model.json", b"x"), compression=zipfile.ZIP_LZMA),
    "files upon each other": with_offset_of_first(zipped(("a.json", b"x" * 50), ("b.json", b"x" * 50))),
    "an encrypted file": encrypted(zipped(("a.json", b"x"))),
    "a size that is a lie": promising(zipped(("a.json", b"x" * 2000)), 3),
    "too many files": many(120),
    "a giant list of files": many(2000),
    "nothing": zipped(),
    "no zip": b"hello",
    "an empty file": b"",
    "one that is cut short": zipped(("model.json", b"x" * 500))[:-40],
    "a web page": b"<html>" + b"x" * 100,
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_left(data, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "model.zip").write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DamagedFile):
        unpack(place / "model.zip", place / "model")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "model.zip").write_bytes(zipped(("model.json", b"x"), ("model.json", b"y")))
    with pytest.raises(DamagedFile, match="is there twice"):
        unpack(tmp_path / "model.zip", tmp_path / "model")


def test_what_is_packed_comes_back_and_packs_to_the_same_bytes(folder, tmp_path):
    pack(folder, tmp_path / "one.zip")
    pack(folder, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    unpack(tmp_path / "one.zip", tmp_path / "back")
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_a_folder_around_the_files_is_taken_off_and_a_macs_leavings_are_left_out(tmp_path):
    members = [("HLCA/", b""), ("HLCA/attr.pkl", b"a"), ("HLCA/model_params.pt", b"b"), ("__MACOSX/._x", b"z")]
    (tmp_path / "model.zip").write_bytes(zipped(*members))
    unpack(tmp_path / "model.zip", tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["attr.pkl", "model_params.pt"]


def test_an_existing_folder_is_never_written_into(folder, tmp_path):
    pack(folder, tmp_path / "one.zip")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "one.zip", folder)


def test_what_does_not_pass_the_last_look_leaves_nothing(folder, tmp_path):
    pack(folder, tmp_path / "one.zip")

    def refuse(unpacked):
        assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700
        raise DamagedFile("no")

    with pytest.raises(DamagedFile, match="no"):
        unpack(tmp_path / "one.zip", tmp_path / "back", refuse)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "one.zip"]


def test_a_foreign_file_is_not_packed(folder, tmp_path):
    (folder / "numpy.py").write_text("")
    with pytest.raises(ValueError, match="does not belong"):
        pack(folder, tmp_path / "one.zip")
    assert archives.MOST_MEMBERS == 100
