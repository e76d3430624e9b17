"""`onnx:FILE`: converted to torch where that is verified, else a black box."""

from __future__ import annotations

from audit.errors import UsageError
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape


def build_onnx(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """To come."""
    raise UsageError(f"Expected another scheme, got {spec.text}. It is being built.")
