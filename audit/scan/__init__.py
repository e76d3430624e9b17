"""Static checks of files that nobody vouches for: reads bytes, runs nothing, imports neither torch nor numpy.

What it cannot see: what the numbers of a model make it do (a backdoor, a loop that never ends); what a class that is
named would do when it is made; faults in the libraries that read a well-formed file; what is encrypted, compressed in
ways that Python 3.11 does not know, or in HDF5, TFLite, GGUF, Parquet and protocol buffers other than ONNX, which are
named and not examined; and templates of text within configurations.
"""

from audit.scan.kinds import Kind
from audit.scan.limits import LIMITS, Limits
from audit.scan.report import FileReport, Finding
from audit.scan.scan import scan_file, scan_paths
from audit.scan.sniffing import kind_of

__all__ = ["LIMITS", "FileReport", "Finding", "Kind", "Limits", "kind_of", "scan_file", "scan_paths"]
