"""The kinds of files, told by their first bytes and by their members' names, never by their own name."""

from __future__ import annotations

import pickle
import re
import unicodedata
from collections.abc import Callable, Iterable
from enum import StrEnum

HEAD_BYTES = 512
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The pickled number 0x1950a86a20f9469cfc6c with which files of torch before 1.6 begin."""
TORCH_MAGIC_TEXT = b"L119547037146038801333356L\n."
"""The same in protocols 0 and 1."""
LARGEST_SAFETENSORS_HEADER = 100_000_000
"""What the safetensors library itself accepts."""
_ONNX_START = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]")
"""Field 1 of a ModelProto (ir_version, a small number), then one of the fields that follow it."""


class Kind(StrEnum):
    """Kinds of files, by what reading them means; values are for people."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "a torch.save file (zip)"
    TORCH_LEGACY = "a torch.save file (before torch 1.6)"
    TORCH_TAR = "a torch.save file (tar, before torch 0.4)"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED_PROGRAM = "a torch.export (.pt2) archive"
    PICKLE = "a plain pickle"
    ONNX = "an ONNX model"
    NPY = "a NumPy array"
    NPZ = "a NumPy archive (.npz)"
    HUGGING_FACE = "a Hugging Face folder"
    FOLDER = "a folder"
    KERAS = "a Keras archive"
    HDF5 = "an HDF5 file, as Keras writes it"
    TFLITE = "a TensorFlow Lite model"
    GGUF = "a GGUF file"
    ZIP = "a zip archive"
    TAR = "a tar archive"
    COMPRESSED = "a compressed file"
    NATIVE = "native code"
    BYTECODE = "compiled Python"
    PYTHON = "Python source"
    SCRIPT = "a script"
    LFS_POINTER = "a Git LFS pointer"
    HTML = "an HTML or XML page"
    JSON = "JSON"
    PARQUET = "a Parquet table"
    IMAGE = "an image"
    TEXT = "text"
    EMPTY = "an empty file"
    SPECIAL = "a device, pipe or socket"
    DAMAGED_ZIP = "a damaged zip archive"
    UNKNOWN = "of no known kind"


_STARTS: tuple[tuple[Kind, tuple[bytes, ...]], ...] = (
    (Kind.LFS_POINTER, (b"version https://git-lfs",)),
    (Kind.HDF5, (b"\x89HDF\r\n\x1a\n",)),
    (Kind.NPY, (b"\x93NUMPY",)),
    (Kind.GGUF, (b"GGUF",)),
    (Kind.PARQUET, (b"PAR1",)),
    (Kind.IMAGE, (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")),
    (Kind.COMPRESSED, (b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd",
                       b"\x04\x22\x4d\x18")),
    (Kind.NATIVE, (b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe",
                   b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"!<arch>\n", b"\x00asm")),
    (Kind.SCRIPT, (b"#!",)),
)  # fmt: skip
_BELOW_128 = bytes(range(128))
_BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_JSON_START = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*([\"{\[\]\d-]|true|false|null|NaN|Infinity))")
PYTHON_LINE = re.compile(
    rb"^(import [\w.]+( as \w+)?( *, *[\w.]+( as \w+)?)*[ \t]*;?(#.*)?\r?$|from [\w.]+ import [\w*(]"
    rb"|def \w+\(.*\).*:[ \t]*(#.*)?\r?$|class \w+(\(.*\))?:[ \t]*(#.*)?\r?$)",
    re.MULTILINE,
)
"""A whole line as programs have it, and prose has not."""


def kind_of_head(head: bytes) -> Kind:
    """The kind that the first bytes tell, for members of archives too; archives are not looked into.

    Args:
        head: the first `HEAD_BYTES` bytes, or all there are.
    """
    if not head:
        return Kind.EMPTY
    if is_tar(head):
        return Kind.TAR
    for kind, starts in _STARTS:
        if head.startswith(starts):
            return kind
    tests: tuple[tuple[Kind, Callable[[bytes], object]], ...] = (
        (Kind.ZIP, lambda b: b.startswith(_ZIP_STARTS)),
        (Kind.TORCH_LEGACY, _is_torch_legacy),
        (Kind.SAFETENSORS, is_safetensors),
        (Kind.PICKLE, lambda b: len(b) > 1 and b[0] == 0x80 and 2 <= b[1] <= pickle.HIGHEST_PROTOCOL),
        (Kind.HTML, lambda b: b.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))),
        (Kind.BYTECODE, lambda b: b[2:4] == b"\r\n" and b[16:17] in (b"\xe3", b"c") and not is_text(b)),
        (Kind.IMAGE, lambda b: b[:4] == b"RIFF" and b[8:12] == b"WEBP"),
        (Kind.IMAGE, lambda b: b[:2] == b"BM" and b[6:10] == bytes(4) and b[14:18] in _BMP_HEADERS),
        (Kind.TFLITE, lambda b: b[4:8] == b"TFL3"),
        (Kind.NATIVE, _is_windows_program),
        (Kind.ONNX, _ONNX_START.match),
        (Kind.JSON, lambda b: _JSON_START.match(b) and is_text(b)),
        (Kind.TEXT, is_text),
    )
    return next((kind for kind, test in tests if test(head)), Kind.UNKNOWN)


def is_tar(head: bytes) -> bool:
    """Whether bytes begin with the header of a tar archive: its checksum says so, whatever the age of the format.

    As lenient as Python's reader, which takes sums of signed bytes, too.
    """
    if len(head) < 512:
        return False
    stated = tar_number(head[148:156])
    if stated is None:
        return False
    rest = head[:148] + head[156:512]
    unsigned = sum(rest) + 8 * ord(" ")
    return stated in (unsigned, unsigned - 256 * len(rest.translate(None, _BELOW_128)))


def tar_number(stored: bytes) -> int | None:
    """A number of a tar header as Python's `tarfile.nti` reads it: octal up to a NUL, or of base 256."""
    if stored[0] in (0x80, 0xFF):
        value = int.from_bytes(stored[1:], "big")
        return value if stored[0] == 0x80 else value - (1 << 8 * (len(stored) - 1))
    try:
        return int(stored.partition(b"\0")[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        return None


def _is_torch_legacy(head: bytes) -> bool:
    """Whether the number is the first that is pickled; protocol 4 puts the length of a frame before it."""
    if head.startswith(TORCH_MAGIC_TEXT):
        return True
    return head[:1] == b"\x80" and head[11 if head[2:3] == b"\x95" else 2 :].startswith(TORCH_MAGIC)


def _is_windows_program(head: bytes) -> bool:
    at = int.from_bytes(head[60:64], "little")
    return head[:2] == b"MZ" and (head[at : at + 4] == b"PE\0\0" or HEAD_BYTES - 4 < at < 1 << 16)


def is_safetensors(head: bytes) -> bool:
    """Whether bytes begin as safetensors do: a length of eight bytes, then a JSON object.

    An absurd length (10 GB) is still taken for safetensors when a JSON object follows it, and refused later; but not
    eight letters of a text, as in lines of JSON.
    """
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length < 2:
        return False
    return length <= LARGEST_SAFETENSORS_HEADER or (head[9:10] in (b'"', b"}", b" ") and not is_text(head))


def kind_of_members(names: Iterable[str]) -> Kind:
    """The kind of a zip archive by the names of its members."""
    whole = [name.lower() for name in names]  # torch finds members whatever the case of their names
    below = [name.partition("/")[2] or name for name in whole]
    if any(name.startswith("code/") or name == "constants.pkl" for name in below):
        return Kind.TORCHSCRIPT
    if any(name in ("archive_format", "serialized_exported_program.json") for name in below):
        return Kind.EXPORTED_PROGRAM
    if "data.pkl" in below:
        return Kind.TORCH_ZIP
    if "model.weights.h5" in below or {"config.json", "metadata.json"} <= {*below}:
        return Kind.KERAS
    if whole and all(name.endswith(".npy") for name in whole):
        return Kind.NPZ
    return Kind.ZIP


def is_text(head: bytes) -> bool:
    """Whether bytes are text as people write it, but for a letter cut at the end; signs that join letters are."""
    text = head.decode("utf-8", errors="ignore")
    return len(text.encode()) > 0.9 * len(head) and all(
        letter.isprintable() or letter.isspace() or unicodedata.category(letter) == "Cf" for letter in text
    )
