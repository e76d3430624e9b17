"""Texts in an exported program that torch evaluates, and the forms that torch itself writes.

Read in torch 2.15.0: `_export/serde/serialize.py` hands every `expr_str` to `sympy.sympify`, which evaluates text as
Python (`_parse_sym_expr`), and looks operators up by attributes from `torch`, `math` and `operator`, as far as a dotted
name leads (`deserialize_operator`); `export/_unlift.py` executes the texts of `guards_code`; `utils/_pytree.py` imports
the modules that the contexts of tree specs name (`enum_object_hook`, `default_factory_module`); and torch.fx writes the
names of inputs into the source of a function that it then executes.
"""

from __future__ import annotations

import re

LONGEST_EXPRESSION = 20_000
_FUNCTIONS_TEXT = (
    "Abs Add And Boolean BooleanFalse BooleanTrue CeilDiv CeilToInt CleanDiv Eq Equality Equivalent Exp Expr "
    "false Float FloatPow FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt Half Identity Implies Infinity "
    "Integer IntTrueDiv IsNonOverlappingAndDenseIndicator ITE Le LessThan LShift Lt Max Min Mod ModularIndexing "
    "Mul Ne NegativeInfinity NegativeOne Not One Or Piecewise Pow PowByNatural PythonMod Rational Relational "
    "RoundDecimal RoundToInt RShift StrictGreaterThan StrictLessThan Symbol ToFloat true TruncToFloat TruncToInt "
    "Tuple Unequality Where Xor Zero ceiling exp floor int_oo log oo sqrt OpaqueUnaryFn_sqrt OpaqueUnaryFn_cos "
    "OpaqueUnaryFn_cosh OpaqueUnaryFn_sin OpaqueUnaryFn_sinh OpaqueUnaryFn_tan OpaqueUnaryFn_tanh "
    "OpaqueUnaryFn_asin OpaqueUnaryFn_acos OpaqueUnaryFn_atan OpaqueUnaryFn_exp OpaqueUnaryFn_log "
    "OpaqueUnaryFn_asinh OpaqueUnaryFn_log2 IntInfinity NegativeIntInfinity BitwiseFn_bitwise_and "
    "BitwiseFn_bitwise_or BitwiseFn_bitwise_xor True False None"
)
_FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())
_ASSUMPTIONS_TEXT = (
    "integer positive negative nonnegative nonpositive nonzero zero real finite infinite extended_real "
    "extended_positive extended_nonnegative extended_negative extended_nonpositive extended_nonzero rational "
    "complex hermitian even odd commutative evaluate precision algebraic transcendental irrational imaginary "
    "prime composite noninteger positive_infinite"
)
_ASSUMPTIONS = frozenset(_ASSUMPTIONS_TEXT.split())
_SYMBOL = re.compile(r"[a-z]{1,4}\d+|[A-Z]\d+|_?[a-zA-Z]")
_TOKEN = re.compile(
    r"\s+|(?P<quoted>'(?:[A-Za-z_]\w{0,63}|-?[\d.]+(?:e[+-]?\d+)?)')|(?P<word>[A-Za-z_]\w*)|\d+(?:\.\d*)?(?:e[+-]?\d+)?"
    r"|\*\*|//|[<>=!]=|[-+*/%(),=<>&|~]"
)
_GUARD_WORDS_TEXT = (
    "L args size stride shape storage_offset numel dim item and or not in is math isnan isinf inf floor ceil "
    "ceiling trunc sqrt Eq Ne Lt Le Gt Ge Max Min max min Mod PythonMod FloorDiv CeilDiv IntTrueDiv FloatTrueDiv "
    "ToFloat TruncToInt sym_max sym_min sym_float sym_int sym_not torch int float bool True False None Where "
    "ModularIndexing pow is_contiguous dtype device layout requires_grad int8 int16 int32 int64 uint8 float16 "
    "float32 float64 bfloat16 bool_ cpu cuda strided CleanDiv FloorToInt CeilToInt RoundToInt PowByNatural "
    "FloatPow Identity nan Piecewise And Or Not"
)
_GUARD_WORDS = frozenset(_GUARD_WORDS_TEXT.split())
_GUARD_TOKEN = re.compile(
    r"\s+|(?P<key>\[\s*(?:'[\w.\- ]*'|\"[\w.\- ]*\"|-?\d+)\s*\])|(?P<word>\.?[A-Za-z_]\w*)"
    r"|\d+(?:\.\d*)?(?:e[+-]?\d+)?|\*\*|//|[<>=!]=|[-+*/%(),<>&|~]"
)
_OPERATORS = re.compile(
    r"torch\.ops\.\w+\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.(sym_\w+|_sym_\w+|ops\.higher_order\.\w+)"
    r"|torch\._higher_order_ops\.[\w.]+|torch\._C\._\w+enabled|torch\.utils\._sympy\.functions\.\w+|#[\w.:\-]+|[\w]*"
)
_TOUCHING = frozenset(("attrgetter", "methodcaller", "call", "setitem", "delitem"))
_INSIDE_TORCH = re.compile(
    r"(^|\.)(_?os|_?sys|subprocess|builtins|importlib|pickle|shutil|ctypes|io|hub|load|save|eval|exec)(\.|$)"
)
_NAME = re.compile(r"[\w.\-/:$@<>\[\]]*")


def is_arithmetic(text: str) -> bool:
    """Whether an expression is sums, products, comparisons and rounding of symbols and numbers, and nothing else."""
    if len(text) > LONGEST_EXPRESSION:
        return False
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return False
        word = token["word"]
        if word and word not in _FUNCTIONS and word not in _ASSUMPTIONS and not _SYMBOL.fullmatch(word):
            return False
        at = token.end()
    return True


def is_guard(text: str) -> bool:
    """Whether a guard compares sizes, strides and values of inputs, and nothing else."""
    if len(text) > LONGEST_EXPRESSION:
        return False
    at = 0
    while at < len(text):
        token = _GUARD_TOKEN.match(text, at)
        if token is None or (token["word"] and token["word"].lstrip(".") not in _GUARD_WORDS):
            return False
        at = token.end()
    return True


def is_operator(text: str) -> bool:
    """Whether the target of a call is an operator of torch or of arithmetic, and no walk to anything else."""
    return (
        _OPERATORS.fullmatch(text) is not None
        and text.rpartition(".")[2] not in _TOUCHING
        and not _INSIDE_TORCH.search(text.removeprefix("torch.ops"))
    )


def is_name(text: str) -> bool:
    """Whether a name of a value could stand in the source of a function without adding anything to it."""
    return len(text) < 1000 and _NAME.fullmatch(text) is not None
