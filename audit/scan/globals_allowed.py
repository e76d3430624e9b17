"""The globals that ordinary checkpoints name, and the only way in which each may be used.

Source: torch 2.15.0, `torch/_weights_only_unpickler.py`, `_get_allowed_globals()`, written out by name; a test compares
the two, so that a drift shows. Further: numpy 2.4, `ndarray.__reduce__` and `__reduce_ex__(5)`, under the module names
of numpy 1 and 2; and containers and plain types of Python, which call nothing that they are given.
"""

from __future__ import annotations

from enum import Enum


class Use(Enum):
    """How a global may be used."""

    FUNCTION = "called by REDUCE"
    CLASS = "made into an object, by any opcode"
    VALUE = "passed on, and never called"


_FUNCTIONS = (
    "_codecs.encode",
    "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
    *(
        f"torch._utils.{name}"
        for name in (
            "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy",
            "_rebuild_meta_tensor_no_storage", "_rebuild_parameter", "_rebuild_parameter_with_state",
            "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_tensor", "_rebuild_tensor_v2",
            "_rebuild_tensor_v3", "_rebuild_wrapper_subclass",
        )
    ),
)  # fmt: skip
_CLASSES = (
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
)
_ELEMENTS = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_TENSORS = (
    *(f"torch.{name}Tensor" for name in _ELEMENTS),
    *(f"torch.cuda.{name}Tensor" for name in _ELEMENTS),
    *(f"torch.sparse.{name}Tensor" for name in _ELEMENTS if name != "Bool"),
    *(f"torch.cuda.sparse.{name}Tensor" for name in _ELEMENTS if name != "Bool"),
)
_STORAGES = (
    *(f"torch.{name}Storage" for name in (*_ELEMENTS, "ComplexDouble", "ComplexFloat")),
    *(f"torch.cuda.{name}Storage" for name in (*_ELEMENTS, "ComplexDouble", "ComplexFloat")),
    *(f"torch.{name}Storage" for name in ("QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8")),
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
)
_DTYPES = tuple(
    f"torch.{name}"
    for name in (
        "bcomplex32", "bfloat16", "bits16", "bits1x8", "bits2x4", "bits4x2", "bits8", "bool", "complex128", "complex32",
        "complex64", "float16", "float32", "float4_e2m1fn_x2", "float64", "float8_e4m3fn", "float8_e4m3fnuz",
        "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "qint32", "qint8", "quint2x4", "quint4x2", "quint8",
        "int1", "int2", "int3", "int4", "int5", "int6", "int7", "int8", "int16", "int32", "int64",
        "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7", "uint8", "uint16", "uint32", "uint64",
        "per_channel_affine", "per_channel_affine_float_qparams", "per_channel_symmetric", "per_tensor_affine",
        "per_tensor_symmetric",
    )
)  # fmt: skip

OF_TORCH: dict[str, Use] = {
    **dict.fromkeys(_FUNCTIONS, Use.FUNCTION),
    **dict.fromkeys((*_CLASSES, *_TENSORS), Use.CLASS),
    **dict.fromkeys((*_STORAGES, *_DTYPES), Use.VALUE),
}
"""What torch's weights-only unpickler takes."""

_OF_NUMPY = {
    "numpy.dtype": Use.CLASS,
    "numpy.ndarray": Use.VALUE,
    **{
        f"numpy.{core}.{name}": Use.FUNCTION
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "numeric._frombuffer")
    },
}
_OF_PYTHON = {
    **dict.fromkeys(("builtins.bytes", "builtins.frozenset", "builtins.object", "builtins.slice"), Use.CLASS),
    **dict.fromkeys(("collections.defaultdict", "collections.deque"), Use.CLASS),
    **{
        f"builtins.{name}": Use.VALUE
        for name in ("bool", "dict", "float", "int", "list", "str", "tuple", "type", "NoneType")
    },
}

ALLOWED: dict[str, Use] = OF_TORCH | _OF_NUMPY | _OF_PYTHON
"""What an ordinary checkpoint may name. torch's weights-only loading takes only those of `OF_TORCH`."""

OF_TORCHSCRIPT: dict[str, Use] = {
    f"torch.jit._pickle.{name}": Use.FUNCTION
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "build_tensor_from_id",
                 "restore_type_tag")
}  # fmt: skip
"""What the C++ pickler writes, besides classes of `__torch__`; its unpickler builds these itself."""
