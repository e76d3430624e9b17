"""What each opcode does to the machine, protocols 0 to 5."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from audit.scan.pickle_bytes import Blob, Broken, Overreach
from audit.scan.pickle_machine import Container, Global, Made, PickleMachine, Stored, Watcher
from audit.scan.pickle_opcodes import NUMBER, OpcodeReader

MOST_KEPT = 1024
"""Contents of a list or dict that are kept: to be shown, and the fields of numpy's types."""
MOST_THINGS = 1_500_000
"""On the stack, in the memo and in marks together; beyond, a pickle is made to fill the memory."""
OPCODES_BETWEEN_COUNTS = 1024

Step = Callable[[PickleMachine, Any], None]


def follow(reader: OpcodeReader, watch: Watcher) -> Any:
    """Follows one pickle, from where the reader is to just behind its STOP.

    Returns:
        What it would give.

    Raises:
        Broken: where Python's unpickler would stop with an error.
    """
    machine, steps, count = PickleMachine(reader, watch), _STEPS, 0
    try:
        for name, argument in reader.opcodes():
            count += 1
            steps[name](machine, argument)
            if count == OPCODES_BETWEEN_COUNTS:
                count = 0
                watch.followed(OPCODES_BETWEEN_COUNTS)
                if machine.things() > MOST_THINGS:
                    raise Overreach(f"piles up more than {MOST_THINGS:,} objects")
    finally:
        watch.followed(count)
    return machine.pop()


def _constant(value: Any) -> Step:
    return lambda machine, _: machine.push(value)


def _push(machine: PickleMachine, value: Any) -> None:
    machine.push(value)


def _push_payload(machine: PickleMachine, value: str | bytes | Blob) -> None:
    machine.watch.payload(value)
    machine.push(value)


def _nothing(_machine: PickleMachine, _argument: Any) -> None:
    pass


def _protocol(_machine: PickleMachine, number: int) -> None:
    if number > pickle.HIGHEST_PROTOCOL:
        raise Broken(f"announces protocol {number}, which does not exist")


def _pop(machine: PickleMachine, _: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_all(machine: PickleMachine, _: Any) -> None:
    machine.pop_mark()


def _tuple_of(count: int) -> Step:
    def step(machine: PickleMachine, _: Any) -> None:
        if len(machine.stack) < count:
            raise Broken("takes more from its stack than is on it")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _marked_tuple(machine: PickleMachine, _: Any) -> None:
    machine.push(tuple(machine.pop_mark()))


def _empty(kind: str) -> Step:
    return lambda machine, _: machine.push(Container(kind))


def _marked(kind: str) -> Step:
    def step(machine: PickleMachine, _: Any) -> None:
        items = machine.pop_mark()
        machine.push(Container(kind, items[:MOST_KEPT], len(items)))

    return step


def _fill(how: str) -> Step:
    """APPENDS, SETITEMS and ADDITEMS: all above the mark goes into what lies under it."""

    def step(machine: PickleMachine, _: Any) -> None:
        items = machine.pop_mark()
        _put(machine, items, how)

    return step


def _fill_one(count: int, how: str) -> Step:
    """APPEND and SETITEM: one value, or a key and its value."""

    def step(machine: PickleMachine, _: Any) -> None:
        items = [machine.pop() for _ in range(count)][::-1]
        _put(machine, items, how)

    return step


def _put(machine: PickleMachine, items: list[Any], how: str) -> None:
    target = machine.top()
    if not isinstance(target, Container):
        machine.watch.filled(target, how)
        return
    target.count += len(items)
    if len(target.content) < MOST_KEPT:
        target.content += items[: MOST_KEPT - len(target.content)]


def _global(machine: PickleMachine, argument: tuple[str, str]) -> None:
    machine.push(machine.name(*argument))


def _stack_global(machine: PickleMachine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.name(module, name))


def _extension(machine: PickleMachine, number: int) -> None:
    machine.watch.extension(number)
    machine.push(Made(Global("copyreg", f"extension {number}"), ()))


def _reduce(machine: PickleMachine, _: Any) -> None:
    arguments, callee = machine.pop(), machine.pop()
    machine.call(callee, arguments, "REDUCE")


def _new_object(machine: PickleMachine, _: Any) -> None:
    arguments, callee = machine.pop(), machine.pop()
    machine.call(callee, arguments, "NEWOBJ")


def _new_object_with_keywords(machine: PickleMachine, _: Any) -> None:
    keywords, arguments, callee = machine.pop(), machine.pop(), machine.pop()
    machine.call(callee, (arguments, keywords), "NEWOBJ_EX")


def _object(machine: PickleMachine, _: Any) -> None:
    above = machine.pop_mark()
    if not above:
        raise Broken("makes an object of no class")
    machine.call(above[0], tuple(above[1:]), "OBJ")


def _instance(machine: PickleMachine, argument: tuple[str, str]) -> None:
    arguments = tuple(machine.pop_mark())
    machine.call(machine.name(*argument), arguments, "INST")


def _build(machine: PickleMachine, _: Any) -> None:
    state = machine.pop()
    machine.watch.built(machine.top(), state)


def _persistent(machine: PickleMachine, key: Any) -> None:
    """A storage; or the class of a module with its source, which torch before 1.6 hands back as the class."""
    machine.watch.stored(key)
    is_class = (
        isinstance(key, tuple) and len(key) > 1 and key[0] in ("module", b"module") and isinstance(key[1], Global)
    )
    machine.push(key[1] if is_class else Stored(key))


def _persistent_of_stack(machine: PickleMachine, _: Any) -> None:
    _persistent(machine, machine.pop())


_STEPS: dict[str, Step] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "NEXT_BUFFER"), _constant(NUMBER)),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push_payload),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push_payload),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _push_payload),
    **dict.fromkeys(("FRAME", "STOP", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, place: machine.remember(place)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.recall(place)),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "PROTO": _protocol,
    "MARK": lambda machine, _: machine.mark(),
    "POP": _pop,
    "POP_MARK": _pop_all,
    "DUP": lambda machine, _: machine.push(machine.top()),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "EMPTY_LIST": _empty("list"),
    "EMPTY_DICT": _empty("dict"),
    "EMPTY_SET": _empty("set"),
    "LIST": _marked("list"),
    "DICT": _marked("dict"),
    "FROZENSET": _marked("set"),
    "APPEND": _fill_one(1, "APPEND"),
    "SETITEM": _fill_one(2, "SETITEM"),
    "APPENDS": _fill("APPENDS"),
    "SETITEMS": _fill("SETITEMS"),
    "ADDITEMS": _fill("ADDITEMS"),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": _persistent_of_stack,
}
