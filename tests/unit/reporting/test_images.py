"""The pictures of the README: well-formed, self-contained, and legible in light and dark."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = sorted((ROOT / "docs" / "images").glob("*.svg"))


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_image_is_self_contained_and_knows_the_dark(image):
    text = image.read_text(encoding="utf-8")

    ElementTree.fromstring(text)  # noqa: S314
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text
    assert "<title" in text


def test_readme_shows_only_pictures_that_exist():
    shown = re.findall(r"!\[[^\]]*\]\((docs/images/[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))

    assert "docs/images/loop.svg" in shown
    assert [path for path in shown if not (ROOT / path).is_file()] == []
