"""Static checks of files that nobody vouches for: reads bytes, runs nothing, imports neither torch nor numpy."""

from audit.scan.kinds import Kind, kind_of

__all__ = ["Kind", "kind_of"]
