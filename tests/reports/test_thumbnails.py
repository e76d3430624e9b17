import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from audit.schema import ImageGrid, ImageTile
from reports.html import render_html
from reports.thumbnails import ImageRefused, make_thumbnail
from tests.reports import sample
from tests.reports.pages import read


def put(run_dir: Path, name: str, content: bytes) -> dict[str, str]:
    (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / name).write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest()}


def picture(size: tuple[int, int], mode: str = "RGB", file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


def test_small_images_keep_their_pixels(tmp_path: Path):
    digests = put(tmp_path, "a.png", sample.small_image(0))
    found = make_thumbnail(tmp_path, "a.png", digests)
    assert found.uri.startswith("data:image/png;base64,")
    assert (found.width, found.height, found.pixelated) == (112, 112, True)


@pytest.mark.parametrize(
    ("size", "mode", "file_format"),
    [((900, 600), "RGB", "JPEG"), ((600, 900), "L", "PNG"), ((500, 500), "RGBA", "WEBP")],
)
def test_large_images_shrink(tmp_path: Path, size: tuple[int, int], mode: str, file_format: str):
    digests = put(tmp_path, "a.bin", picture(size, mode, file_format))
    found = make_thumbnail(tmp_path, "a.bin", digests)
    assert max(found.width, found.height) == 224
    assert found.width * size[1] == pytest.approx(found.height * size[0], rel=0.01)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.png", "leaves the run folder"), ("a/../../secret.png", "leaves the run folder"),
        ("/etc/passwd", "leaves the run folder"), ("..\\secret.png", "leaves the run folder"),
        ("a\x00.png", "leaves the run folder"), ("", "leaves the run folder"), ("link.png", "leaves the run folder"),
        ("unlisted.png", "not listed as evidence"), ("gone.png", "missing from the run folder"), (".", "missing"),
        ("changed.png", "its sha256 is not the one on record"), ("text.png", "not a readable"), ("cut.png", "damaged"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, path: str, reason: str):
    run = tmp_path / "run"
    good = sample.small_image(1)
    (tmp_path / "secret.png").parent.mkdir(exist_ok=True)
    (tmp_path / "secret.png").write_bytes(good)
    run.mkdir()
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "unlisted.png").write_bytes(good)
    digests = (
        put(run, "changed.png", good) | put(run, "text.png", b"<svg onload=alert(1)>") | put(run, "cut.png", good[:150])
    )
    (run / "changed.png").write_bytes(sample.small_image(2))
    digest = hashlib.sha256(good).hexdigest()
    outside = ("../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "link.png", "gone.png", ".", "")
    digests |= dict.fromkeys(outside, digest)
    with pytest.raises(ImageRefused, match=reason):
        make_thumbnail(run, path, digests)


def test_metadata_of_files_stays_behind(tmp_path: Path):
    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    info.add_text("Comment", "who took this")
    Image.new("RGB", (20, 20), "red").save(buffer, "PNG", pnginfo=info)
    found = make_thumbnail(tmp_path, "a.png", put(tmp_path, "a.png", buffer.getvalue()))
    import base64

    assert b"who took this" not in base64.b64decode(found.uri.partition(",")[2])


def test_refused_images_are_noted_in_the_report(tmp_path: Path):
    run = tmp_path / "run"
    report = sample.sample_report(run)
    (run / "probes/evasion/0.png").unlink()
    (run / "probes/evasion/1.png").write_bytes(b"other")
    evasion = report.record.result("evasion")
    assert evasion is not None
    grid = next(figure for figure in evasion.figures if isinstance(figure, ImageGrid))
    row = (ImageTile(path="../../etc/passwd", label="outside"),)
    changed = evasion.model_copy(update={"figures": (grid.model_copy(update={"rows": (*grid.rows, row)}),)})
    record = report.record.model_copy(update={"results": (changed,)})
    page = read(render_html(report.model_copy(update={"record": record}), run))
    assert page.problems == []
    assert len(page.all("img")) == 7
    assert "Not shown: missing from the run folder" in page.text
    assert "Not shown: its sha256 is not the one on record" in page.text
    assert "Not shown: its path leaves the run folder" in page.text
