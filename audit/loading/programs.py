"""`script:FILE` and `export:FILE`: networks that are programs, behind `--allow-code`."""

from __future__ import annotations

from audit.errors import UsageError
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape


def build_script(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """To come."""
    raise UsageError(f"Expected another scheme, got {spec.text}. It is being built.")


def build_export(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """To come."""
    raise UsageError(f"Expected another scheme, got {spec.text}. It is being built.")
