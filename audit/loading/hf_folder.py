"""`hf:DIR`: a folder as Hugging Face transformers or timm save it, without remote code."""

from __future__ import annotations

from audit.errors import UsageError
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape


def build_hf(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """To come."""
    raise UsageError(f"Expected another scheme, got {spec.text}. It is being built.")
