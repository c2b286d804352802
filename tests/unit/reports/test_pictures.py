"""The curves as pictures: what stands in an SVG can be read, and a PNG can be decoded."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from llmbench.results.run import Run

matplotlib = pytest.importorskip("matplotlib")
# Text as text, so that it can be read back.
pytestmark = pytest.mark.usefixtures("text_in_svg")


@pytest.fixture
def text_in_svg():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def texts(path: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(path).iter())


def test_a_sweep_has_its_curves_with_engines_units_and_limits(sweep: Run, tmp_path: Path) -> None:
    from llmbench.reports.pictures import write_pictures

    written = {path.name: path for path in write_pictures(sweep, tmp_path / "pictures", "svg")}
    assert set(written) == {path.name for path in (tmp_path / "pictures").iterdir()}
    shown = texts(written["load-ttft-median.svg"])
    assert all(word in shown for word in ("alpha", "beta", "TTFT median", "offered load (requests/s)", "(ms)"))
    # One distribution for each level, and what a sighted reader sees in words.
    distribution = texts(written["distributions-time-to-first-token-poisson-8-s.svg"])
    assert "at poisson 8/s" in distribution
    assert "50% within" in distribution


def test_png_is_a_picture_of_the_size_asked(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    from llmbench.reports.pictures import write_pictures

    written = write_pictures(run, tmp_path, "png")
    with Image.open(written[0]) as picture:
        picture.verify()
        assert picture.size == (1024, 608)
