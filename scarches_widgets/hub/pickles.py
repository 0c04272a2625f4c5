"""Reading what others pickled, without a pickle machine: torch's zip and older files, and plain pickles.

A pickle is a program, and Python's reader runs it. Here its instructions are only parsed (`pickletools.genops`), and
carried out by `_Builder`, which imports nothing and calls nothing that the file names. It builds tensors, arrays,
containers, text and numbers; of pandas and a few others it makes a `Stand`, which says what it was filled with. A file
that names anything else is refused. What is built takes a few times the size of the file, whatever the file declares.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.container import DamagedFile
from ..data.names import shown
from ..data.read import file_kind

LARGEST_PROGRAM = 512_000_000  # bytes of instructions; an atlas keeps a name for each of its cells there
DEEPEST, MOST_DIMENSIONS = 4, 64  # pickles within each other; of a tensor
MOST_MEMBERS = 100_000  # of a zip
EXPANSION = 8  # bytes that are copied, per byte of the file
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch before 1.6 begins a file
DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
}  # fmt: skip
DTYPE_NAME = re.compile(r"[<>|=]?([biufUS?]\d{0,9}|O8?|[mM]8)")
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
STANDS = re.compile(  # objects of these need not be understood, and nothing of them is run
    r"pandas\.core\.(frame|series|internals|arrays|indexes|dtypes)\.[\w.]+|pandas\._libs\.(internals|arrays)\.\w+|"
    r"pandas\.Index|pandas\._libs\.tslibs\.\w+\.\w+|datetime\.\w+|torch\.(device|float32|float64|int64)"
)


@dataclass(frozen=True)
class Name:
    """What a file calls by its name: text, and nothing more."""

    text: str


class Stand:
    """In the place of an object that is not understood."""

    def __init__(self, content: Any = ()):
        self.content = [content]  # what it was made of, and then what it was filled with

    def arrays(self) -> Iterator[np.ndarray]:
        """All that lie in it, also in what lies in it."""
        found, waiting = set(), [self]
        while waiting:
            match waiting.pop():
                case Stand() as stand if id(stand) not in found:  # it may lie in itself
                    found.add(id(stand))
                    waiting += stand.content[::-1]
                case np.ndarray() as array:
                    yield array
                case (list() | tuple()) as items if id(items) not in found:
                    found.add(id(items))
                    waiting += items[::-1]
                case dict() as items if id(items) not in found:
                    found.add(id(items))
                    waiting += [*items.values()][::-1]


@dataclass
class _Storage:
    """The numbers that tensors share; None while an old file, in which they follow the tensors, is read first."""

    values: np.ndarray | None
    size: int
    dtype: np.dtype


@dataclass
class _Dtype:
    dtype: np.dtype


class _Array:
    """An array whose numbers come with a later instruction."""


@dataclass
class _Budget:
    """Bytes that may still be copied, so that a small file cannot ask for the same numbers a million times."""

    left: int

    def spend(self, n_bytes: int) -> None:
        self.left -= n_bytes
        if self.left < 0:
            raise _Refused("it builds many times more than it holds")


class _Refused(ValueError):
    pass


def read_torch(path: str | os.PathLike) -> Any:
    """What `torch.save` wrote, in its zip format or the one before 1.6.

    Raises
    ------
    DamagedFile
        The file is damaged, is something else, or names what no model needs.
    FileNotFoundError
        There is no such file.
    """
    return _guarded(path, lambda file, budget: _read_torch(file, 0, budget))


def read_pickle(path: str | os.PathLike) -> Any:
    """What `pickle.dump` wrote of plain containers, arrays and tensors; raises as `read_torch` does."""
    return _guarded(path, lambda file, budget: _Builder(0, budget).build(file))


def _guarded(path: str | os.PathLike, read: Callable[[io.BufferedIOBase, _Budget], Any]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    try:
        with open(path, "rb") as file:
            return read(file, _Budget(EXPANSION * path.stat().st_size + 1_000_000))
    except _Refused as error:
        reason = str(error)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError) as error:
        reason = f"it is damaged or cut short ({shown(error)})"
    except (zipfile.BadZipFile, struct.error, RuntimeError) as error:
        reason = f"it is damaged or cut short ({shown(error)})"
    raise DamagedFile(
        f"'{path}' was not read: {reason}. It looks like {file_kind(path)}. Nothing of it was run. Get the file again "
        "from its author; if it is refused again, do not open it with other programs."
    )


def _read_torch(file: io.BufferedIOBase, depth: int, budget: _Budget) -> Any:
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        return _read_zip(file, depth, budget)
    if start[:1] == b"\x80":
        return _read_legacy(file, depth, budget)
    raise _Refused("it is no file of torch in a format that is read here")


# ---- torch's files ---------------------------------------------------------------------------------------------------


def _read_zip(file: io.BufferedIOBase, depth: int, budget: _Budget) -> Any:
    """One pickle, `data.pkl`, and a member for each storage, all of them stored as they are."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        if len(names) < len(members) or len(members) > MOST_MEMBERS:
            raise _Refused("its zip archive has a member twice, or too many of them")
        if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
            raise _Refused("its zip archive is packed or encrypted, as torch's never is")
        if sum(member.file_size for member in members) > size:
            raise _Refused("members of its zip archive overlap")
        programs = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(programs) != 1:
            raise _Refused("it holds no model: there is not one data.pkl in it")
        root = programs[0].removesuffix("data.pkl")
        big_endian = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        storages: dict[str, _Storage] = {}

        def storage_of(kind: np.dtype, key: str, n: int) -> _Storage:
            if key not in storages:
                data = archive.read(f"{root}data/{key}")
                budget.spend(len(data))
                storages[key] = _Storage(_numbers(data, kind, n, big_endian), n, kind)
            return storages[key]

        return _Builder(depth, budget, storage_of).build(io.BytesIO(archive.read(programs[0])))


def _read_legacy(file: io.BufferedIOBase, depth: int, budget: _Budget) -> Any:
    """Five pickles (a number, a version, the machine, the object, the keys of its storages), then the storages."""
    plain = _Builder(depth, budget)
    if plain.build(file) != LEGACY_MAGIC or plain.build(file) != LEGACY_PROTOCOL:
        raise _Refused("it is a pickle, but not one of torch")
    machine, begin = plain.build(file), file.tell()
    storages: dict[str, _Storage] = {}

    def storage_of(kind: np.dtype, key: str, n: int) -> _Storage:
        return storages.setdefault(key, _Storage(None, n, kind))

    builder = _Builder(depth, budget, storage_of)
    builder.build(file)
    for key in plain.build(file):
        storage, n = storages[key], int.from_bytes(file.read(8), "little")
        data = file.read(storage.size * storage.dtype.itemsize)
        budget.spend(len(data))
        storage.values = _numbers(data, storage.dtype, n, not machine.get("little_endian", True))
    file.seek(begin)
    return builder.build(file)  # again, now that the numbers are there


def _numbers(data: bytes, kind: np.dtype, n: int, big_endian: bool) -> np.ndarray:
    if len(data) != n * kind.itemsize:
        raise _Refused("a storage has another size than it declares")
    return np.frombuffer(data, kind.newbyteorder(">")).astype(kind) if big_endian else np.frombuffer(data, kind)


# ---- the instructions ------------------------------------------------------------------------------------------------


class _Builder:
    """Carries out the instructions of one pickle after the other.

    Parameters
    ----------
    depth, budget
        How many pickles this one lies within, and how many bytes may still be copied.
    storage_of
        Gives the storage of a type, key and number of values, where tensors are read.
    """

    def __init__(self, depth: int, budget: _Budget, storage_of: Callable[[np.dtype, str, int], _Storage] | None = None):
        if depth > DEEPEST:
            raise _Refused(f"pickles lie within pickles, more than {DEEPEST} deep")
        self.depth, self.budget, self.storage_of = depth, budget, storage_of

    def build(self, file: io.BufferedIOBase) -> Any:
        """The object; the file then stands behind it."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        places: dict[int, int] = {}  # where the memo has an array that is yet to be filled
        begin = file.tell()

        def since_mark() -> list[Any]:
            mark = marks.pop()
            items = stack[mark:]
            del stack[mark:]
            return items

        for code, argument, position in pickletools.genops(file):
            if position - begin > LARGEST_PROGRAM:
                raise _Refused(f"its instructions take more than {LARGEST_PROGRAM:,} bytes")
            if code.name in LITERALS:
                stack.append(argument)
                continue
            match code.name:
                case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    place = len(memo) if argument is None else argument
                    memo[place] = stack[-1]
                    if isinstance(stack[-1], _Array):
                        places[id(stack[-1])] = place
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    marks.append(len(stack))
                case "POP":
                    stack.pop()
                case "POP_MARK":
                    since_mark()
                case "DUP":
                    stack.append(stack[-1])
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(code.name == "NEWTRUE")
                case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                    stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[code.name]())
                case "EMPTY_TUPLE":
                    stack.append(())
                case "LIST" | "TUPLE" | "FROZENSET":
                    items = since_mark()
                    if code.name == "FROZENSET":
                        _check_keys(items)
                    stack.append({"LIST": list, "TUPLE": tuple, "FROZENSET": frozenset}[code.name](items))
                case "DICT":
                    items = since_mark()
                    _check_keys(items[::2])
                    stack.append(dict(zip(items[::2], items[1::2])))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(code.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "APPEND":
                    _append(stack[-2], [stack.pop()])
                case "APPENDS" | "ADDITEMS":
                    items = since_mark()
                    _append(stack[-1], items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _set(stack[-1], [(key, value)])
                case "SETITEMS":
                    items = since_mark()
                    _set(stack[-1], [*zip(items[::2], items[1::2])])
                case "GLOBAL":
                    stack.append(_known(*argument.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_known(module, name))
                case "REDUCE" | "NEWOBJ":
                    arguments, called = stack.pop(), stack.pop()
                    stack.append(self.called(called, arguments))
                case "BUILD":
                    state, target = stack.pop(), stack[-1]
                    stack[-1] = self.filled(target, state)
                    if isinstance(target, _Array) and id(target) in places:
                        memo[places.pop(id(target))] = stack[-1]
                case "BINPERSID":
                    stack.append(self.persistent(stack.pop()))
                case _:
                    raise _Refused(f"it has the instruction {code.name}, which model files do not need")
        raise EOFError("the instructions do not end")

    def persistent(self, key: Any) -> _Storage:
        """What torch keeps outside the pickle."""
        if self.storage_of is None or not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise _Refused("it refers to something outside of it")
        _, kind, name, _, n = key[:5]
        dtype = DTYPES.get(kind.text.removeprefix("torch.")) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(name, str) or type(n) is not int or n < 0 or any(key[5:]):
            raise _Refused(f"it has a tensor of an unknown type ({shown(getattr(kind, 'text', type(kind).__name__))})")
        return self.storage_of(np.dtype(dtype), name, n)

    def called(self, name: Any, arguments: Any) -> Any:
        """What the file wants made by calling a name, made by this class."""
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise _Refused("it calls what is no name")
        match name.text.replace("numpy.core.", "numpy._core."), arguments:
            case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, offset, shape, stride, *_):
                return self.tensor(storage, offset, tuple(shape), tuple(stride))
            case "torch._utils._rebuild_parameter", (torch.Tensor() | Stand() as tensor, *_):
                return tensor
            case "torch.storage._load_from_bytes", (bytes(data),):
                return _read_torch(io.BytesIO(data), self.depth + 1, self.budget)
            case "collections.OrderedDict", ():
                return OrderedDict()
            case "collections.OrderedDict", (list(pairs),):
                self.budget.spend(100 * len(pairs))
                _check_keys([key for key, _ in pairs])
                return OrderedDict(pairs)
            case (("collections.defaultdict" | "scvi.utils._attrdict.attrdict"), _):
                return {}
            case "numpy._core.multiarray._reconstruct", _:
                return _Array()
            case "numpy._core.multiarray.scalar", (_Dtype(kind), bytes(data)):
                return np.frombuffer(data, kind, 1)[0].item()
            case "numpy._core.numeric._frombuffer", (data, _Dtype(kind), tuple(shape), str(order)):
                return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")
            case "numpy.dtype", (str(code), *_) if DTYPE_NAME.fullmatch(code):
                return _Dtype(np.dtype(code))
            case "pandas.core.indexes.base._new_Index", (_, {"data": data}):
                return data
            case "_codecs.encode", (str(text), "latin1"):
                self.budget.spend(len(text))
                return text.encode("latin1")
            case "builtins.bytes", ():
                return b""
            case "builtins.range", _ if len(arguments) <= 3 and all(type(value) is int for value in arguments):
                return range(*arguments)
            case "builtins.slice", _:
                return Stand()
            case (("builtins.set" | "builtins.frozenset" | "builtins.list"), (list(items),)):
                self.budget.spend(100 * len(items))
                _check_keys(items)
                return set(items) if name.text != "builtins.list" else list(items)
            case (("builtins.dict" | "builtins.list" | "builtins.set"), ()):
                return {"dict": dict, "list": list, "set": set}[name.text.removeprefix("builtins.")]()
            case text, _ if STANDS.fullmatch(text):
                return Stand(arguments)
        raise _Refused(f"it would call {shown(name.text)} in a way that model files do not need")

    def filled(self, target: Any, state: Any) -> Any:
        """An object with its state."""
        match target, state:
            case _Array(), (_, tuple(shape), _Dtype(kind), is_fortran, data):
                if isinstance(data, list):
                    self.budget.spend(8 * len(data))
                    values = np.empty(len(data), dtype=object)
                    values[:] = data
                else:
                    if isinstance(data, str):  # of Python 2
                        self.budget.spend(len(data))
                        data = data.encode("latin1")
                    values = np.frombuffer(data, kind)
                return values.reshape(shape, order="F" if is_fortran else "C")
            case _Dtype(), (_, "<" | ">" | "|" | "=" as order, *_):
                target.dtype = target.dtype.newbyteorder(order)
                return target
            case OrderedDict(), _:
                return target
            case Stand(), _:
                target.content.append(state)
                return target
            case dict(), dict():
                target.update(state)
                return target
        raise _Refused("it fills an object in a way that model files do not need")

    def tensor(self, storage: _Storage, offset: Any, shape: tuple, stride: tuple) -> torch.Tensor | Stand:
        """A copy of those numbers; refuses a tensor that reaches out of its storage, or is larger than it."""
        numbers = (offset, *shape, *stride)
        if (
            len(shape) != len(stride)
            or len(shape) > MOST_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 2**48 for n in numbers)
        ):
            raise _Refused("a tensor has an impossible shape")
        n = math.prod(shape)
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride))
        if n and (last >= storage.size or n > storage.size):
            raise _Refused(f"a tensor of {n:,} values has a storage of {storage.size:,}")
        if storage.values is None:
            return Stand()
        self.budget.spend(n * storage.dtype.itemsize)
        strides = [step * storage.dtype.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(storage.values[offset:], shape, strides, writeable=False)
        return torch.from_numpy(view.copy())


BUILT = {
    *(f"torch.{kind}" for kind in DTYPES),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.storage._load_from_bytes"),
    *("collections.OrderedDict", "collections.defaultdict", "scvi.utils._attrdict.attrdict", "_codecs.encode"),
    *(f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("_reconstruct", "scalar")),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer", "numpy.ndarray", "numpy.dtype"),
    *(f"builtins.{what}" for what in ("bytes", "range", "slice", "set", "frozenset", "list", "dict")),
}


def _known(module: Any, name: Any) -> Name:
    """A name that a model file may have."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused("it names something by what is no text")
    text = f"{module}.{name}".replace("__builtin__.xrange", "builtins.range")  # Python 2's names, of old protocols
    text = text.replace("__builtin__.", "builtins.", 1)
    if text in BUILT or STANDS.fullmatch(text):
        return Name(text)
    raise _Refused(f"it names {shown(text)}, which no model needs and which could run code")


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that take long to compare: tuples within tuples, a million deep, overflow the stack."""
    if not all(isinstance(key, str | int | float | bytes | Name | None) for key in keys):
        raise _Refused("it has a key that is neither text nor a number")


def _append(target: Any, items: list[Any]) -> None:
    match target:
        case list():
            target.extend(items)
        case set():
            _check_keys(items)
            target.update(items)
        case Stand():
            pass
        case _:
            raise _Refused("it appends to what is no list")


def _set(target: Any, items: list[tuple[Any, Any]]) -> None:
    match target:
        case dict():
            _check_keys([key for key, _ in items])
            target.update(items)
        case Stand():
            pass
        case _:
            raise _Refused("it sets a key of what is no dict")
