"""Affine operators with coefficients of either sign: what is centred passes as it is, the radius by absolute values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.nn.grad import conv2d_input

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Affine, Pulled, Rule, Standing, sides, total


class Added(Affine):
    """A sum or difference, of two operands or with a constant; `alpha` scales the second."""

    def __init__(self, *signs: int) -> None:
        self.signs = signs

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """End by end, crosswise where one is subtracted."""
        factors = (self.signs[0], self.signs[1] * op.kwargs.get("alpha", 1))
        first, second = (
            Interval(side.lo * factor, side.hi * factor)
            if factor >= 0
            else Interval(side.hi * factor, side.lo * factor)
            for side, factor in zip(sides(op, operands), factors, strict=True)
        )
        return Interval(first.lo + second.lo, first.hi + second.hi)


class Negated(Affine):
    """-x."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The ends change places."""
        (x,) = operands
        return Interval(-x.hi, -x.lo)


class Scaled(Affine):
    """A product with a constant, or a quotient by one."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The ends change places where the factor is negative."""
        one, other = op.each(*(each.lo for each in operands)), op.each(*(each.hi for each in operands))
        return Interval(torch.minimum(one, other), torch.maximum(one, other))


class Linear(Affine):
    """x W^T + b."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """W times the centre, |W| times the radius."""
        (x,) = operands
        _, weight, *bias = op.args
        return Interval.around(linear(x.centre, weight, *bias), linear(x.radius, weight.abs()))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """A W."""
        _, weight, *bias = op.args
        rest = total(rows @ bias[0]) if bias and bias[0] is not None else rows.new_zeros(len(rows))
        return Pulled((rows @ weight,), rest)


class Convolution(Affine):
    """A convolution in two dimensions with zeros around; of images, the leading 1 being in the place of a batch."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The filters on the centre, their absolute values on the radius."""
        (x,) = operands
        _, weight, bias, *rest = (*op.args, None)[: max(len(op.args), 3)]
        centre = op.target(x.centre.flatten(0, 1), weight, bias, *rest)
        radius = op.target(x.radius.flatten(0, 1), weight.abs(), None, *rest)
        return Interval.around(centre[:, None], radius[:, None])

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The transposed convolution."""
        stride, padding, dilation, groups = (
            op.argument(place, name, default)
            for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1), (6, "groups", 1))
        )
        if isinstance(padding, str):
            return super().backward(op, rows, at)
        weight, bias = op.args[1], op.argument(2, "bias")
        images = rows.flatten(0, 1)
        size = (len(images), *op.operands[0].shape[1:])
        pulled = conv2d_input(size, weight, images, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
        rest = images.sum((2, 3)) @ bias if bias is not None else rows.new_zeros(len(rows))
        return Pulled((pulled[:, None],), rest)


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
        absolute = Operation(op.kind, op.name, op.module, op.target, tuple(args), op.kwargs, op.operands, op.shape)
        return Interval.around(op.each(x.centre), absolute.each(x.radius))


RULES: dict[str, Rule] = {
    "add": Added(1, 1), "sub": Added(1, -1), "rsub": Added(-1, 1), "neg": Negated(),
    "linear": Linear(), "conv2d": Convolution(), "mul": Scaled(), "div": Scaled(), "matmul": Product(), "mm": Product(),
    "bmm": Product(), "addmm": Product(1), "baddbmm": Product(1),
}  # fmt: skip
"""For operators of which one operand depends on the pixels; sums of either."""
