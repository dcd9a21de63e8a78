"""What blocks did to images: block by block, and a page of it alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordcbam.records import Picture, read_pictures
from coordcbam.report.page import embedded, write_page
from coordcbam.report.words import Words


def write_pictures_page(folder: Path, name: str, words: Words) -> Path:
    """See :func:`coordcbam.report.build_pictures`, which first asks for the packages."""
    problems: list[str] = []
    pictures = read_pictures(folder, problems)
    context = {"name": name, "problems": problems, "pictures": by_block(folder, pictures)}
    return write_page(folder, "pictures.html.jinja", words, [], context, name="pictures.html")


def by_block(folder: Path, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Block by block, the pictures of each image, before training beside after it."""
    shown = embedded(folder, [picture.file for picture in pictures])
    groups: dict[str, dict[str, list[Picture]]] = {}
    for picture in pictures:
        groups.setdefault(picture.block, {}).setdefault(picture.image, []).append(picture)
    return [
        {
            "block": block,
            "images": [
                {"image": image, "stages": [(one, shown.get(one.file)) for one in found]}
                for image, found in images.items()
            ],
        }
        for block, images in groups.items()
    ]
