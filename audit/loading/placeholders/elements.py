"""Kinds of numbers: what torch, its storages, numpy and safetensors call them."""

from __future__ import annotations

import pickle


class Inert:
    """Lies on the unpickler's stack, where the file decides what is set on what: nothing can be set on it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Unpickling comes here for every state that a file wants to set."""
        raise pickle.UnpicklingError(f"a state for a {type(self).__name__}")


class Element(Inert):
    """A kind of number.

    Attributes:
        name: torch's, such as `float32`.
        code: safetensors', or empty where there is none.
        size: in bytes.
    """

    __slots__ = ("code", "name", "size")

    def __init__(self, name: str, code: str, size: int) -> None:
        self.name, self.code, self.size = name, code, size

    @property
    def quantised(self) -> bool:
        """Whether numbers need a scale that is kept elsewhere."""
        return self.name.startswith(("qu", "qi"))


_ROWS = """
float64 F64 8, float32 F32 4, float16 F16 2, bfloat16 BF16 2, complex64 C64 8, complex128 - 16, complex32 - 4,
int64 I64 8, int32 I32 4, int16 I16 2, int8 I8 1, uint64 U64 8, uint32 U32 4, uint16 U16 2, uint8 U8 1, bool BOOL 1,
float8_e4m3fn F8_E4M3 1, float8_e4m3fnuz F8_E4M3FNUZ 1, float8_e5m2 F8_E5M2 1, float8_e5m2fnuz F8_E5M2FNUZ 1,
quint8 - 1, qint8 - 1, qint32 - 4, quint4x2 - 1, quint2x4 - 1
"""
ELEMENTS = {
    name: Element(name, code.replace("-", ""), int(size))
    for name, code, size in (row.split() for row in _ROWS.replace("\n", " ").split(","))
}
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QUInt8Storage": "quint8", "QInt8Storage": "qint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip
"""The kind of number in each of torch's storage classes."""
NUMPY = {
    "f8": "float64", "f4": "float32", "f2": "float16", "c8": "complex64", "i8": "int64", "i4": "int32", "i2": "int16",
    "i1": "int8", "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool",
}  # fmt: skip
EXPORTED = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
    31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""Numbers of `torch._export.serde.schema.ScalarType`."""
