"""Bounds by auto_LiRPA (Xu et al. 2020, arXiv 2002.12920): a second opinion, behind functions that speak tensors only.

Version range: 0.3 (read and run, with torch 2.15 and NumPy 2.4). Its metadata pin torch below 1.13, so it is no plain
dependency; where it is absent, `PrerequisiteError` says so. Its alpha-CROWN returns CROWN's own values on this torch
and is not offered.

What is walled off here, how it was seen, and the test in tests/audit/adapters/test_auto_lirpa.py that pins it:

- Importing needs `numpy.lib.arraysetops` and `torch.onnx.symbolic_helper._set_opset_version`, which are gone, and
  `appdirs`, which requirements.lock leaves out: it makes a folder in the user's home that nothing uses (read, run).
  Importing adds a handler to the root logger, reorders the warning filters, switches TorchScript's profiling off (run)
  and brings setuptools for a kernel that stays unused (read). It happens on first use, with stand-ins, and what it
  changed is put back. `test_importing_leaves_no_trace`.
- Tracing reads `node[attribute]`, which TorchScript's nodes have lost, and sets the exporter's opset (run). Both are
  there while bounds are computed. `test_global_state_is_left_as_found`.
- `BoundedModule._named_members` lacks an argument that torch passes: TypeError in `crown` (run). A subclass takes it.
  `test_equals_ours`.
- The module is moved, its flags are set (read). It gets a copy. `test_module_is_left_as_found`.
- A module with `nn.Dropout` is traced in training mode, batch normalisation with it (read, run). Dropout is taken out
  of the copy. `test_dropout_is_taken_out`.
- `conv_mode="patches"`, the default, forgets dilation without a word: inner values leave their bounds by 0.16 (run). It
  fails on LeakyReLU, on groups, and on division by a constant that has not four dimensions (run). It is two to five
  times as fast as `"matrix"`, which is taken. `test_equals_ours[dilation]`, `[groups]`, `[normalised]`.
- Some tensors it makes have the default precision, so that float64 fails (run). float64 is the default meanwhile.
  `test_equals_ours`.
- Among several images, constants with fewer dimensions fail (run), and a neuron that is open for one is bounded anew
  for all (read). Images go one by one. `test_images_do_not_hang_on_one_another`.
- In an L2 ball, intervals pass a first convolution or linear layer rightly, but any other layer, such as a
  normalisation, takes the centre for both ends: bounds of no width, which points of the ball leave (read, run). A
  convolution that changes nothing goes first. `test_ball[normalised]`.
- Average pooling whose stride is not its window, or with padding, is passed backwards wrongly, without a word (run: off
  by 0.2). So bounds are checked where truth is known: over one image alone they are the products themselves. A module
  that fails this is `NotTaken`. `test_wrong_backward_pass_is_not_taken`.
- What it cannot take ends in NotImplementedError, AssertionError, KeyError and others, with lines on stdout (run). All
  of it is `NotTaken`, in silence. `test_unknown_operator_is_not_taken_in_silence`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from audit.errors import PrerequisiteError

Method = Literal["ibp", "crown-ibp", "crown"]
AGREEMENT = 1e-6
"""By how much a bound over one image may differ from the value there, relative to 1 + |value|."""


class NotTaken(Exception):  # noqa: N818 - an outcome: there is no second opinion
    """auto_LiRPA cannot bound a module, or bounds it wrongly; the text says why."""


def box_bounds(module: nn.Module, lo: Tensor, hi: Tensor, rows: Tensor, method: Method, *, meet: bool = True) -> Tensor:
    """Lower bounds (n, k), in float64, of linear combinations of the logits over boxes.

    Args:
        module: from images (1, c, h, w) to logits (1, classes); left as it is.
        lo: (n, c, h, w), the lower ends.
        hi: the upper ends.
        rows: (n, k, classes), the combinations.
        method: `ibp` merges the last linear layer with the rows; `crown-ibp` passes the rows backwards with intervals
            of IBP; `crown` with intervals of backward passes, for neurons that IBP leaves open.
        meet: whether `crown` keeps what lies in both intervals of a ReLU's operand, as `audit.lirpa` does; if not, the
            one of the backward pass alone. Tighter intervals may choose other slopes, so either can come out ahead.

    Raises:
        PrerequisiteError: when the package is not installed.
        NotTaken: when it cannot bound the module.
    """
    package, lo, hi = _package(), lo.double(), hi.double()
    centre = (lo + hi) / 2

    def region(place: int, *, alone: bool) -> Any:
        ends = (centre, centre) if alone else (lo, hi)
        return package.PerturbationLpNorm(norm=np.inf, x_L=ends[0][place][None], x_U=ends[1][place][None])

    return _bounds(module, centre, region, rows, method, meet)


def ball_bounds(
    module: nn.Module, centre: Tensor, radius: Tensor, rows: Tensor, method: Method, *, meet: bool = True
) -> Tensor:
    """The same over L2 balls, of all images in a ball, whether or not their pixels are in range.

    Args:
        module: as in `box_bounds`.
        centre: (n, c, h, w).
        radius: (n,).
        rows: as in `box_bounds`.
        method: as in `box_bounds`; all intervals of `ibp` and `crown-ibp` are those of the box around the ball.
        meet: as in `box_bounds`.

    Raises:
        PrerequisiteError: when the package is not installed.
        NotTaken: when it cannot bound the module.
    """
    package, centre = _package(), centre.double()
    channels = centre.shape[1]
    same = nn.Conv2d(channels, channels, 1, bias=False, device=centre.device)
    with torch.no_grad():
        same.weight.copy_(torch.eye(channels)[:, :, None, None])

    def region(place: int, *, alone: bool) -> Any:
        return package.PerturbationLpNorm(norm=2, eps=0.0 if alone else float(radius[place]))

    return _bounds(nn.Sequential(same, module), centre, region, rows, method, meet)


def _bounds(
    module: nn.Module, centre: Tensor, region: Callable[..., Any], rows: Tensor, method: Method, meet: bool
) -> Tensor:
    """Lower bounds over each place's region, by a module that is traced once and checked at each centre."""
    package, rows = _package(), rows.to(centre)
    if not len(centre):
        return rows[..., 0]
    with _walls():
        try:
            own = _without_dropout(copy.deepcopy(module).eval()).double()
            options = {"conv_mode": "matrix", **({"minimum_sparsity": 1.0} if meet else {})}
            traced = package.Traced(copy.deepcopy(own), centre[:1], options, device=centre.device)
            traced.meet = meet

            def lower(place: int, *, alone: bool) -> Tensor:
                image = package.BoundedTensor(centre[place][None], region(place, alone=alone))
                bound = traced.compute_bounds((image,), C=rows[place][None], method=method, bound_upper=False)[0]
                return cast("Tensor", bound[0])

            for place in range(len(centre)):
                _check(lower(place, alone=True), rows[place] @ own(centre[place][None])[0])
            return torch.stack([lower(place, alone=False) for place in range(len(centre))])
        except NotTaken:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
            raise NotTaken(f"auto_LiRPA 0.3 ended in {type(error).__name__}: {reason}") from error


def _check(bounds: Tensor, values: Tensor) -> None:
    """Over a region of one image the bounds are the values.

    Raises:
        NotTaken: where they are not.
    """
    apart = float(((bounds - values).abs() / (1 + values.abs())).max())
    if not apart <= AGREEMENT:
        raise NotTaken(f"auto_LiRPA 0.3 bounds this module wrongly: for one image alone it is off by {apart:.2g}")


def _without_dropout(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, nn.Identity() if isinstance(child, _DropoutNd) else _without_dropout(child))
    return module


@contextlib.contextmanager
def _walls() -> Iterator[None]:
    """What its calls need is there, and what they change is put back."""
    from torch.onnx import symbolic_helper
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    dtype, opset, node = torch.get_default_dtype(), GLOBALS.export_onnx_opset_version, cast("Any", torch._C.Node)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)
        node.__getitem__ = symbolic_helper._node_get
        try:
            yield
        finally:
            del node.__getitem__
            torch.set_default_dtype(dtype)
            GLOBALS.export_onnx_opset_version = opset


@cache
def _package() -> Any:
    """The package, imported on first use, with `Traced`, its module as torch wants it.

    Raises:
        PrerequisiteError: when it is not installed.
    """
    try:
        with _stand_ins():
            import auto_LiRPA
    except (ImportError, AttributeError) as error:
        raise PrerequisiteError(
            f"Expected the package auto_LiRPA 0.3, got {error}. Install it with --no-deps from requirements.lock."
        ) from error
    logging.getLogger("auto_LiRPA").setLevel(logging.CRITICAL + 1)
    logging.getLogger("auto_LiRPA.utils").disabled = True

    class Traced(auto_LiRPA.BoundedModule):  # type: ignore[misc]
        def _named_members(self, get: Any, prefix: str = "", recurse: bool = True, **_: Any) -> Any:
            return super()._named_members(get, prefix, recurse)

        def restore_sparse_bounds(self, node: Any, index: Any, size: int, lo: Tensor, hi: Tensor, *new: Any) -> None:
            super().restore_sparse_bounds(node, index, size, lo, hi, *new)
            if self.meet:
                node.lower, node.upper = torch.maximum(node.lower, lo), torch.minimum(node.upper, hi)

    return types.SimpleNamespace(
        BoundedTensor=auto_LiRPA.BoundedTensor, PerturbationLpNorm=auto_LiRPA.PerturbationLpNorm, Traced=Traced
    )


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """What importing needs is there, and what it changes is put back."""
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    made: dict[str, dict[str, Any]] = {
        "numpy.lib.arraysetops": {"isin": np.isin},
        "appdirs": {"user_data_dir": lambda _: tempfile.gettempdir()},
        "auto_LiRPA.cuda_utils": {"double2float": None},
    }
    before, handlers = {name: sys.modules.get(name) for name in made}, list(logging.root.handlers)
    for name, contents in made.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    helper.__dict__["_set_opset_version"] = lambda version: setattr(GLOBALS, "export_onnx_opset_version", version)
    profiling = torch._C._jit_set_profiling_executor(True), torch._C._jit_set_profiling_mode(True)
    try:
        with warnings.catch_warnings(record=True):
            yield
    finally:
        torch._C._jit_set_profiling_executor(profiling[0])
        torch._C._jit_set_profiling_mode(profiling[1])
        del helper.__dict__["_set_opset_version"]
        logging.root.handlers[:] = handlers
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
