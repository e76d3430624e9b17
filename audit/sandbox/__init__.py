"""Work on files that nobody vouches for, in a process of its own that the kernel keeps from everything else."""

from audit.sandbox.apart import Answer, run_apart
from audit.sandbox.limits import Limits
from audit.sandbox.protections import Protections, protections

__all__ = ["Answer", "Limits", "Protections", "protections", "run_apart"]
