"""The hostile corpus: files that run, grow, lead elsewhere or lie, made anew by each test that wants them.

Nothing of it is stored. Every file that names a reader in `executes` really acts when that reader believes it;
`tests/test_hostile.py` proves it before it proves that the tool is not taken in.
"""

from __future__ import annotations

from pathlib import Path

from tests.hostile.site import Corpus, HostileFile

__all__ = ["HostileFile", "hostile_files"]


def hostile_files(folder: Path, canary: Path, *, bombs: bool = True) -> list[HostileFile]:
    """Writes the corpus, the same on every call.

    Args:
        folder: for the files; made where it is missing, and otherwise empty.
        canary: the file to which each of them writes when something in it runs; must not be there.
        bombs: with those that act by their size alone, most of which take long to make.
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
    add_pickles(corpus)
    add_archives(corpus, bombs=bombs)
    add_programs(corpus)
    add_oddities(corpus)
    if bombs:
        add_growth(corpus)
    add_graphs(corpus)
    add_folders(corpus)
    add_tables(corpus, bombs=bombs)
    add_disguises(corpus)
    return corpus.files
