"""Affine operators with coefficients of either sign: what is centred passes as it is, the radius by absolute values."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d, linear
from torch.nn.grad import conv2d_input

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Affine, Pulled, Rule, Standing, sides, summed_to, total


class Added(Affine):
    """A sum or difference, of two operands or with a constant; `alpha` scales the second."""

    def __init__(self, *signs: int) -> None:
        self.signs = signs

    def local(self, op: Operation) -> bool:
        """Where nothing is spread."""
        return _by_place(op)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """End by end, crosswise where one is subtracted."""
        first, second = (
            Interval(side.lo * factor, side.hi * factor)
            if factor >= 0
            else Interval(side.hi * factor, side.lo * factor)
            for side, factor in zip(sides(op, operands), self._factors(op), strict=True)
        )
        return Interval(first.lo + second.lo, first.hi + second.hi)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Rows times 1 or -1."""
        if len(op.operands) < 2 and all(isinstance(side, Operation) for side in op.args[:2]):
            return super().backward(op, rows, at)  # an operand with itself
        pulled, rest = {}, rows.new_zeros(len(rows))
        for side, factor in zip(op.args[:2], self._factors(op), strict=True):
            mine = rows if factor == 1 else rows * factor
            if isinstance(side, Operation):
                pulled[side] = mine if at.window is not None else summed_to(mine, side.shape)
            else:
                rest = rest + total(mine * side)
        return Pulled(tuple(pulled[operand] for operand in op.operands), rest, at.window)

    def _factors(self, op: Operation) -> tuple[float, float]:
        return self.signs[0], self.signs[1] * op.kwargs.get("alpha", 1)


class Negated(Affine):
    """-x."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The ends change places."""
        (x,) = operands
        return Interval(-x.hi, -x.lo)


class Scaled(Affine):
    """A product with a constant, or a quotient by one."""

    def local(self, op: Operation) -> bool:
        """Where nothing is spread."""
        return _by_place(op)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The ends change places where the factor is negative."""
        one, other = op.each(*(each.lo for each in operands)), op.each(*(each.hi for each in operands))
        return Interval(torch.minimum(one, other), torch.maximum(one, other))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Rows times the factor."""
        factor = next(side for side in op.args[:2] if not isinstance(side, Operation))
        if op.kind == "div" and op.kwargs.get("rounding_mode") is None:
            pulled = rows / factor
        elif op.kind == "mul":
            pulled = rows * factor
        else:
            return super().backward(op, rows, at)
        rest = rows.new_zeros(len(rows))
        return Pulled((pulled if at.window is not None else summed_to(pulled, op.operands[0].shape),), rest, at.window)


class Linear(Affine):
    """x W^T + b."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """W times the centre, |W| times the radius."""
        (x,) = operands
        _, weight, *bias = op.args
        return Interval.around(linear(x.centre, weight, *bias), linear(x.reach(weight.shape[1] + 2), weight.abs()))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """A W."""
        _, weight, *bias = op.args
        rest = total(rows @ bias[0]) if bias and bias[0] is not None else rows.new_zeros(len(rows))
        return Pulled((rows @ weight,), rest)


class Filters(Affine):
    """A convolution with zeros around, transposed or not, of a batch: one image's leading dimension, mostly 1."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The filters on the centre, their absolute values on the radius."""
        (x,) = operands
        _, weight, bias, *rest = (*op.args, None)[: max(len(op.args), 3)]
        centre = op.target(x.centre.flatten(0, 1), weight, bias, *rest)
        reach = x.reach(max(weight[0].numel(), weight[:, 0].numel()) + 2)
        radius, lead = op.target(reach.flatten(0, 1), weight.abs(), None, *rest), x.lo.shape[:2]
        return Interval.around(centre.view(*lead, *centre.shape[1:]), radius.view(*lead, *radius.shape[1:]))


class Convolution(Filters):
    """In two dimensions, where rows can be about a part of the value."""

    def local(self, op: Operation) -> bool:
        """Where padding is given in numbers."""
        return not isinstance(op.argument(4, "padding", 0), str)

    def below(self, op: Operation, height: int, width: int) -> tuple[int, int]:
        """As far as the filters reach."""
        stride, dilation = (_pair(op.argument(*_GEOMETRY[number])) for number in (0, 2))
        reach = [
            (size - 1) * step + gap * (kernel - 1) + 1
            for size, step, gap, kernel in zip((height, width), stride, dilation, op.args[1].shape[2:], strict=True)
        ]
        return reach[0], reach[1]

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The transposed convolution."""
        if isinstance(op.argument(4, "padding", 0), str):
            return super().backward(op, rows, at)
        stride, padding, dilation = (_pair(op.argument(place, name, default)) for place, name, default in _GEOMETRY)
        groups, weight, bias = op.argument(6, "groups", 1), op.args[1], op.argument(2, "bias")
        images = rows.flatten(0, 1)
        rest = rows.sum((1, 3, 4)) @ bias if bias is not None else rows.new_zeros(len(rows))
        if at.window is None:
            size = (len(images), *op.operands[0].shape[1:])
            pulled = conv2d_input(size, weight, images, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
            return Pulled((pulled.view(*rows.shape[:2], *pulled.shape[1:]),), rest)
        pulled = _transposed(images, weight, stride, dilation, groups)
        pulled = pulled.reshape(*rows.shape[:2], *pulled.shape[1:])
        below, size = at.window.below(stride, padding, *pulled.shape[-2:]), op.operands[0].shape[-2:]
        if below.leaves(*size):
            pulled = pulled * below.inside(*size)  # what is padding is 0
        return Pulled((pulled,), rest, below)


class Product(Affine):
    """A matrix product with a constant on one side, and a constant added where there is one."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The matrix on the centre, its absolute values on the radius."""
        (x,) = operands
        args = list(op.args)
        for place in (self.first, self.first + 1):
            if not isinstance(args[place], Operation):
                args[place] = args[place].abs()
        for place in range(self.first):
            args[place] = torch.zeros_like(args[place])
        return Interval.around(
            op.each(x.centre),
            dataclasses.replace(op, args=tuple(args)).each(x.reach(x.lo.shape[-1] + x.lo.shape[-2] + 2)),
        )


FEW = 16
"""Places of a window up to which a product of matrices is faster than the library, which takes row by row."""
_GEOMETRY = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def _transposed(
    rows: Tensor, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> Tensor:
    """The transposed convolution, without padding, of rows (r, c, h, w); of a few places by one product of matrices."""
    n, _, height, width = rows.shape
    if rows.is_cuda or groups > 1 or dilation != (1, 1) or height * width > FEW:
        return conv_transpose2d(rows, weight, None, stride, 0, 0, groups, dilation)
    given, made, *kernel = weight.shape
    parts = (weight.reshape(given, -1).t() @ rows.transpose(0, 1).reshape(given, -1)).view(
        made, *kernel, n, height, width
    )
    down, right = stride
    size = ((height - 1) * down + kernel[0], (width - 1) * right + kernel[1])
    found = rows.new_zeros(made, n, *size)
    for top, left in itertools.product(*map(range, kernel)):
        place = (slice(top, top + (height - 1) * down + 1, down), slice(left, left + (width - 1) * right + 1, right))
        found[:, :, *place] += parts[:, top, left]
    return found.transpose(0, 1)


def _pair(value: Any) -> tuple[int, int]:
    """An argument of a convolution for both directions."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return (values[0], values[-1])


def _by_place(op: Operation) -> bool:
    """Whether each value hangs on the operands' values in the same place, and on constants that are the same in all."""
    if any(operand.shape != op.shape for operand in op.operands) or len(op.shape) < 3:
        return False
    constants = [side for side in op.args[:2] if isinstance(side, Tensor)]
    return all(constant.dim() < 2 or tuple(constant.shape[-2:]) == (1, 1) for constant in constants) and all(
        constant.dim() != 1 or len(constant) == 1 for constant in constants
    )


RULES: dict[str, Rule] = {
    "add": Added(1, 1), "sub": Added(1, -1), "rsub": Added(-1, 1), "neg": Negated(), "linear": Linear(),
    "conv2d": Convolution(), "conv1d": Filters(), "convolution": Filters(), "mul": Scaled(), "div": Scaled(),
    "matmul": Product(), "mm": Product(), "bmm": Product(), "addmm": Product(1), "baddbmm": Product(1),
}  # fmt: skip
"""For operators of which one operand depends on the pixels; sums of either."""
