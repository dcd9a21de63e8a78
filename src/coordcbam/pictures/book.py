"""A run's pictures on disk: which file is whose, stage after stage, in one range of colours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.pictures.colours import reach_of
from coordcbam.pictures.drawing import Sheet, draw
from coordcbam.pictures.files import FOLDER, MAPS, file_of, is_own
from coordcbam.pictures.gates import Gates
from coordcbam.pictures.maps import load_maps, save_maps
from coordcbam.pictures.shot import Shot
from coordcbam.records.pictures import STAGES, Picture, read_pictures, write_pictures


class Book:
    """The pictures of a folder, to which those of one stage are added.

    The gains of every picture are kept beside them, so that the earlier stages of an image can be
    drawn again with the last one, all in one range.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage
        self._shots: dict[str, Shot] = {}
        found = read_pictures(folder, [])
        self._earlier = [picture for picture in found if picture.stage != stage]
        self._replaced = [picture for picture in found if picture.stage == stage]
        names = {picture.file for picture in self._earlier if is_own(picture)}
        kept = load_maps(folder / FOLDER / MAPS).items()
        self._sheets = {name: sheet for name, sheet in kept if name in names}

    def add(self, shot: Shot, caught: Mapping[str, Gates]) -> None:
        """What each block did to an image at this stage."""
        self._shots[shot.name] = shot
        for block, gates in caught.items():
            self._sheets[self.file(shot.name, block)] = _sheet(gates)

    def file(self, image: str, block: str) -> str:
        """The file of a picture of this stage."""
        return file_of(image, block, self.stage)

    def write(self, pictures: Sequence[Picture]) -> None:
        """Draw this stage, and the others of the same images again; the list last.

        Raises:
            UsageError: the folder cannot be written.
        """
        try:
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            everything = [*self._earlier, *pictures]
            for block in dict.fromkeys(picture.block for picture in pictures):
                self._draw([picture for picture in everything if picture.block == block])
            save_maps(self.folder / FOLDER / MAPS, self._sheets)
            write_pictures(self.folder, sorted(everything, key=lambda p: STAGES.index(p.stage)))
            self._discard({picture.file for picture in everything})
        except OSError as error:
            raise UsageError(f"look: {self.folder} cannot be written: {error.strerror}") from None

    def _draw(self, pictures: Sequence[Picture]) -> None:
        """All pictures of a block whose image is at hand, in one range."""
        sheets = {p.file: self._sheets[p.file] for p in pictures if p.file in self._sheets}
        reach = max(_reach(sheet) for sheet in sheets.values())
        for picture in pictures:
            shot, sheet = self._shots.get(picture.image), sheets.get(picture.file)
            if shot is not None and sheet is not None:
                jpeg = draw(_canvas(shot), sheet, shot.boxes or (), reach)
                write_atomically(self.folder / picture.file, jpeg)

    def _discard(self, names: set[str]) -> None:
        """Remove the files of this stage that its new pictures have not replaced."""
        for picture in self._replaced:
            if picture.file not in names and is_own(picture):
                (self.folder / picture.file).unlink(missing_ok=True)


def _sheet(gates: Gates) -> Sheet:
    parts = (gates.gain, gates.rows, gates.columns)
    return Sheet(*(part.float().numpy() for part in parts))


def _reach(sheet: Sheet) -> float:
    return max(reach_of(part) for part in sheet)


def _canvas(shot: Shot) -> Image.Image:
    if isinstance(shot.canvas, Image.Image):
        return shot.canvas
    if shot.canvas is not None:
        return Image.fromarray(np.asarray(shot.canvas).astype(np.uint8))
    return Image.fromarray(_seen(shot.tensor[0]))


def _seen(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """A tensor in [0, 1] as pixels; of other than three channels, the first."""
    pixels = tensor.detach().float().nan_to_num().clamp(0.0, 1.0).mul(255.0).round().byte().cpu()
    found = pixels.permute(1, 2, 0) if pixels.shape[0] == 3 else pixels[0]
    return np.asarray(found.contiguous().numpy())
