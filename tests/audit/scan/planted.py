"""Makers of planted files: pickles out of opcodes, zip archives out of bytes, messages out of fields."""

import io
import pickle
import struct
import zipfile

from audit.scan import scan_file


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def text(value, protocol=2):
    """A text, pushed."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name, *arguments):
    """A pickle of protocol 2 that calls `module.name`; arguments are texts."""
    module, _, function = name.rpartition(".")
    pushed = b"".join(text(argument) for argument in arguments)
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"(" + pushed + b"tR."


def named(module, name):
    """A pickle of protocol 4 that names a global by two texts of the stack."""
    parts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + parts + b"\x93."


def zip_of(members, *, method=zipfile.ZIP_STORED):
    """A zip archive of names and contents; names may repeat."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return stream.getvalue()


def torch_zip(data_pickle, *more):
    """A file as torch.save makes it, around a pickle."""
    members = [("archive/data.pkl", data_pickle), ("archive/byteorder", b"little"), ("archive/version", b"3\n")]
    return zip_of([*members, *more])


def varint(number):
    """A number in the wire format of protocol buffers."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, content):
    """A field of bytes, text or a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def scanned(folder, content, name="model.pt"):
    """The report of a file of these bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return scan_file(path)


def codes(report, severity=None):
    """The codes of a report's findings."""
    return {finding.code for finding in report.findings if severity in (None, finding.severity)}


def harmless(**more):
    """A pickle of plain values."""
    return pickle.dumps({"epoch": 3, **more}, 2)
