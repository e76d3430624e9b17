"""What the names stand for that every file of tensors has: functions of ours, which make records."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from audit.loading.placeholders.elements import ELEMENTS, STORAGES, Element, Inert
from audit.loading.placeholders.records import Array, Dtype, Lost, scalar, tensor
from audit.loading.placeholders.unpickler import Census, Items, Placeholder

PLAIN_TYPES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"})


class StandIn(Inert):
    """Calls a function of ours when the file calls what it stands for."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        """What the function makes of the arguments."""
        return self._function(*args)


class StorageType(Inert):
    """A storage class of torch."""

    __slots__ = ("element",)

    def __init__(self, element: Element) -> None:
        self.element = element


class Wrapped(Inert):
    """Stands for the classes that wrap a tensor: the tensor itself takes the place of each instance."""

    __slots__ = ()

    def __new__(cls, data: object = None, *_: object) -> Any:
        """The tensor."""
        return data


def stand_ins(census: Census, nested: Callable[[bytes], object]) -> Mapping[str, object]:
    """Stand-ins by name.

    Args:
        census: makes placeholders for what cannot be followed.
        nested: reads a torch file that lies in another, and gives what it holds.
    """
    functions: dict[str, Callable[..., object]] = {
        "torch._utils._rebuild_tensor": lambda storage, offset, size, stride, *_: tensor(storage, offset, size, stride),
        "torch._utils._rebuild_tensor_v2": _tensor_v2(census),
        "torch._utils._rebuild_tensor_v3": _tensor_v3(census),
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
        "torch._utils._rebuild_device_tensor_from_numpy": lambda data, *_: data,
        "torch._utils._rebuild_xla_tensor": lambda data, *_: data,
        "torch._utils._rebuild_qtensor": lambda *_: Lost("a quantised tensor"),
        **{f"torch.{module}._rebuild_from_type_v2": _of_type(census) for module in ("_tensor", "tensor")},
        **{f"torch.{module}._rebuild_from_type": _of_type(census) for module in ("_tensor", "tensor")},
        "torch.storage._load_from_bytes": lambda content: nested(_bytes(content)),
        "torch.Size": lambda sizes=(): tuple(sizes) if isinstance(sizes, list | tuple) else (),
        "_codecs.encode": _encoded,
        **dict.fromkeys(("builtins.bytearray", "builtins.bytes"), _encoded),
        **dict.fromkeys(("builtins.set", "builtins.frozenset"), _set),
        "builtins.complex": lambda *parts: str(complex(*parts)),
        "copyreg._reconstructor": _reconstructed,
        **{f"torch.jit._pickle.{name}": lambda value, *_: value for name in _TORCHSCRIPT},
    }
    for core in ("core", "_core"):
        functions[f"numpy.{core}.multiarray._reconstruct"] = Array
        functions[f"numpy.{core}.multiarray.scalar"] = scalar
        functions[f"numpy.{core}.numeric._frombuffer"] = _from_buffer
    known: dict[str, object] = {name: StandIn(function) for name, function in functions.items()}
    known |= {f"torch.{name}": element for name, element in ELEMENTS.items()}
    known |= {
        f"{module}.{name}": StorageType(ELEMENTS[element])
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, element in STORAGES.items()
    }
    known["numpy.dtype"] = StandIn(Dtype)
    known |= dict.fromkeys(("collections.OrderedDict", "collections.Counter", "collections.defaultdict"), Items)
    return known | dict.fromkeys(_WRAPPERS, Wrapped)


_TORCHSCRIPT = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
_WRAPPERS = ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable")


def _tensor_v2(census: Census) -> Callable[..., object]:
    def rebuild(
        storage: object, offset: object, size: object, stride: object, grad: object = False, hooks: object = None,
        metadata: object = None,
    ) -> object:  # fmt: skip
        made = tensor(storage, offset, size, stride)
        if isinstance(metadata, dict) and any(metadata.values()):  # conjugate or negative views
            return census.placeholder("torch._utils._rebuild_tensor_v2 with metadata")(made)
        return made

    return rebuild


def _tensor_v3(census: Census) -> Callable[..., object]:
    def rebuild(
        storage: object, offset: object, size: object, stride: object, grad: object, hooks: object, element: object,
        metadata: object = None,
    ) -> object:  # fmt: skip
        if not isinstance(element, Element) or (isinstance(metadata, dict) and any(metadata.values())):
            return census.placeholder("torch._utils._rebuild_tensor_v3")(storage)
        return tensor(storage, offset, size, stride, element)

    return rebuild


def _of_type(census: Census) -> Callable[..., object]:
    """A tensor of a subclass: taken for a plain one when it is made as plain ones are."""

    def rebuild(function: object, kind: object, arguments: object, *_: object) -> object:
        if not isinstance(function, StandIn) or not isinstance(arguments, tuple):
            return census.placeholder(_name_of(kind))(arguments)
        if _name_of(kind) not in PLAIN_TYPES:
            census.subclasses[_name_of(kind)] = None
        return function(*arguments)

    return rebuild


def _name_of(kind: object) -> str:
    if isinstance(kind, type) and issubclass(kind, Placeholder):
        return kind.qualified
    return "torch.nn.parameter.Parameter" if kind is Wrapped else "a tensor subclass"


def _reconstructed(kind: object, base: object = None, state: object = None) -> object:
    """`copyreg._reconstructor`: an object of a class, its state to follow."""
    if not isinstance(kind, type) or not issubclass(kind, Placeholder | Items | Wrapped):
        raise pickle.UnpicklingError("an object of no class")
    made = kind()
    if isinstance(made, Placeholder) and isinstance(state, list):
        made.extend(state)
    elif isinstance(made, Placeholder | Items) and isinstance(state, dict):
        for key, value in dict.items(state):
            made[key] = value
    return made


def _encoded(text: object = b"", encoding: object = "latin1") -> bytes:
    """Bytes, which protocols before 3 write as text of Latin-1."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        return text.encode("latin-1")
    return _bytes(text)


def _set(values: object = ()) -> frozenset[object]:
    return frozenset(values) if isinstance(values, list | tuple) else frozenset()


def _bytes(content: object) -> bytes:
    if not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError(f"a {type(content).__name__} where bytes belong")
    return bytes(content)


def _from_buffer(content: object, dtype: object, shape: object, order: object = "C") -> Array:
    made = Array()
    made.__setstate__((1, shape, dtype, order == "F", _bytes(content)))
    return made


def storage_of(kind: object, size: object) -> tuple[Element, int]:
    """The kind of number and the bytes of a storage that a persistent id tells.

    Raises:
        pickle.UnpicklingError: when it tells something else.
    """
    if not isinstance(kind, StorageType) or type(size) is not int or size < 0:
        raise pickle.UnpicklingError("a storage of an unknown kind")
    return kind.element, size * kind.element.size
