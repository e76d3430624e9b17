"""Static checks of files that nobody vouches for: reads bytes, runs nothing, imports neither torch nor numpy."""

from audit.scan.kinds import Kind
from audit.scan.limits import LIMITS, Limits
from audit.scan.report import FileReport, Finding
from audit.scan.scan import scan_file, scan_paths
from audit.scan.sniffing import kind_of

__all__ = ["LIMITS", "FileReport", "Finding", "Kind", "Limits", "kind_of", "scan_file", "scan_paths"]
