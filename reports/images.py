"""Image grids: which thumbnails go in, so that the report stays under its size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from audit.schema import ImageGrid
from reports.thumbnails import ImageRefused, Thumbnail, make_thumbnail

_MAX_ROWS = 24
_TILE_MARKUP_BYTES = 160
DROPPED = "left out to keep the report small"


@dataclass(frozen=True)
class TileView:
    """One image with its label, or the reason why it is not shown."""

    label: str
    path: str
    image: Thumbnail | None
    refused: str = ""


@dataclass(frozen=True)
class GridView:
    """An image grid as a page shows it; texts as in the record's figure."""

    key: str
    title: str
    caption: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TileView, ...], ...]
    note: str = ""
    kind: str = "image_grid"


class ImageShelf:
    """Reads each image of a run folder at most once."""

    def __init__(self, run_dir: Path, digests: Mapping[str, str]) -> None:
        self._run_dir, self._digests = run_dir, digests
        self._seen: dict[str, Thumbnail | str] = {}

    def grid(self, figure: ImageGrid, key: str) -> GridView:
        """The grid with every image that may be shown."""
        rows = tuple(tuple(self._tile(tile.path, tile.label) for tile in row) for row in figure.rows[:_MAX_ROWS] if row)
        rest = len(figure.rows) - _MAX_ROWS
        note = f"The first {_MAX_ROWS} of {len(figure.rows):,} rows are shown." if rest > 0 else ""
        return GridView(key, figure.title, figure.caption, figure.alt, figure.columns, rows, note)

    def _tile(self, path: str, label: str) -> TileView:
        if path not in self._seen:
            try:
                self._seen[path] = make_thumbnail(self._run_dir, path, self._digests)
            except ImageRefused as refusal:
                self._seen[path] = str(refusal)
        found = self._seen[path]
        return TileView(label, path, None, found) if isinstance(found, str) else TileView(label, path, found)


def within(grids: Iterable[GridView], room: int) -> dict[str, GridView]:
    """The grids by key, with as many whole rows of images as fit into `room` bytes.

    First rows of all grids come first, then second rows, and so on: probes put the most telling examples on top, so the
    rows that go are those with the least to say.
    """
    by_key = {grid.key: grid for grid in grids}
    kept: set[tuple[str, int]] = set()
    order = sorted((index, place, key) for place, key in enumerate(by_key) for index in range(len(by_key[key].rows)))
    for index, _, key in order:
        size = sum(_size(tile) for tile in by_key[key].rows[index])
        if size > room:
            break
        room -= size
        kept.add((key, index))
    return {key: _only(grid, {index for k, index in kept if k == key}) for key, grid in by_key.items()}


def _size(tile: TileView) -> int:
    return len(tile.image.uri) + _TILE_MARKUP_BYTES if tile.image else 0


def _only(grid: GridView, kept: set[int]) -> GridView:
    dropped = sum(tile.image is not None for i, row in enumerate(grid.rows) if i not in kept for tile in row)
    if not dropped:
        return grid
    note = f"{dropped:,} images were {DROPPED}; they are in the run folder. {grid.note}".strip()
    rows = tuple(
        row if i in kept else tuple(replace(t, image=None, refused=t.refused or DROPPED) for t in row)
        for i, row in enumerate(grid.rows)
    )
    return replace(grid, rows=rows, note=note)


def without_images(grid: GridView) -> GridView:
    """The grid with its labels alone, for measuring the rest of the page."""
    return _only(grid, set())
