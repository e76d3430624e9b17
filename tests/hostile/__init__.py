"""The hostile corpus: files that run, grow, lead elsewhere or lie, made anew by each test that wants them.

Nothing of it is stored. Every file that names a reader in `executes` really acts when that reader believes it;
`tests/test_hostile.py` proves it before it proves that the tool is not taken in.
"""

from __future__ import annotations

from pathlib import Path

from tests.hostile.site import Corpus, HostileFile

__all__ = ["HostileFile", "hostile_files"]


def hostile_files(folder: Path, canary: Path) -> list[HostileFile]:
    """Writes the corpus, the same on every call.

    Args:
        folder: for the files; made where it is missing, and otherwise empty.
        canary: the file to which each of them writes when something in it runs; must not be there.
    """
    from tests.hostile.archives import add_archives
    from tests.hostile.disguises import add_disguises
    from tests.hostile.folders import add_folders
    from tests.hostile.graphs import add_graphs
    from tests.hostile.growth import add_growth
    from tests.hostile.oddities import add_oddities
    from tests.hostile.pickles import add_pickles
    from tests.hostile.programs import add_programs
    from tests.hostile.tables import add_tables

    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(folder, canary)
    for add in (
        add_pickles, add_archives, add_programs, add_oddities, add_growth, add_graphs, add_folders, add_tables,
        add_disguises,
    ):  # fmt: skip
        add(corpus)
    return corpus.files
