"""Everything that can go wrong, and the exit code each kind leads to.

    AuditError (2)
    ├── UsageError (2)           the command, a spec, a flag or the policy is wrong
    ├── SubjectError (2)         the checkpoint loads wrongly, or what it computes cannot be audited
    ├── DataError (2)            a data set cannot be read, or does not fit the model
    ├── TrainingError (2)        a model cannot be trained as asked, or its loss went astray
    ├── StoreError (2)           the run folder cannot be used: in use, of another run, disk full
    ├── PrerequisiteError (2)    something that must be installed is not
    ├── UnsafeArtefactError (4)  refused before anything in it could run
    └── Inconclusive             raised by a probe that measured and could not tell: a result, not a failure

Messages follow one sentence pattern: *Expected X, got Y. Do Z.*
"""

from typing import ClassVar


class AuditError(Exception):
    """Base of every error that a user can mend; its text is shown without a traceback."""

    exit_code: ClassVar[int] = 2


class UsageError(AuditError):
    """The command line, a spec or a policy says something that cannot be done."""


class SubjectError(AuditError):
    """The model cannot be loaded faithfully, or its outputs cannot be audited."""


class DataError(AuditError):
    """A data set cannot be read, or does not fit the model."""


class TrainingError(AuditError):
    """A model cannot be trained as asked, or training went astray."""


class StoreError(AuditError):
    """The run folder cannot be written or belongs to something else."""


class PrerequisiteError(AuditError):
    """A package or device that was asked for is absent."""


class UnsafeArtefactError(AuditError):
    """The artefact would run code when loaded; nothing of it was loaded."""

    exit_code: ClassVar[int] = 4


class Inconclusive(Exception):  # noqa: N818 - an outcome, not an error
    """A probe could not tell.

    Args:
        code: stable and short, such as `"control_failed"` or `"budget"`.
        text: one sentence with the reason and what would help.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
