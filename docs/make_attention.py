"""Draw docs/img/attention.jpg from a run of the demo: an image before and after the training.

python docs/make_attention.py runs/coordcbam/demo-step3
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from coordcbam.records.pictures import Picture, read_pictures

PICTURE = Path(__file__).parent / "img" / "attention.jpg"
GAP, HEAD = 14, 24


def draw(folder: Path, out: Path) -> None:
    """A column for each block of the run's first image, a row for each stage."""
    found = read_pictures(folder, [])
    shown = [picture for picture in found if picture.image == found[0].image]
    blocks = list(dict.fromkeys(picture.block for picture in shown))
    tiles = {(p.block, p.stage): Image.open(folder / p.file) for p in shown}
    width, height = next(iter(tiles.values())).size
    size = (len(blocks) * (width + GAP) + GAP, 2 * (height + GAP + HEAD))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for picture in shown:
        x = GAP + blocks.index(picture.block) * (width + GAP)
        y = ("before", "after").index(picture.stage) * (height + GAP + HEAD) + HEAD
        pen.text((x, y - HEAD + 4), _title(picture), fill=(30, 30, 30), font=font)
        sheet.paste(tiles[picture.block, picture.stage], (x, y))
    sheet.save(out, quality=88, optimize=True)


def _title(picture: Picture) -> str:
    numbers = f"objects {picture.objects:.3f}, background {picture.background:.3f}"
    return f"{picture.block}, {picture.stage}: {numbers}"


if __name__ == "__main__":
    draw(Path(sys.argv[1]) / "coordcbam", PICTURE)
