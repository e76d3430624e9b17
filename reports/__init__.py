"""Rendering of stored records. Never imports torch, the engine or a probe."""
