"""Which file of a run's folder is whose picture."""

import hashlib
import re
import unicodedata

from coordcbam.records.pictures import Picture

FOLDER, MAPS = "pictures", "maps.npz"

_LONGEST = 40  # characters of a name that its file tells


def file_of(image: str, block: str, stage: str) -> str:
    """The file of a picture, relative to the run's folder; another for every other name.

    >>> file_of("a/x.jpg", "model.16", "now")
    'pictures/a-x-jpg-model-16-d8a91213-now.jpg'
    """
    digest = hashlib.sha256(f"{image}\0{block}".encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{FOLDER}/{_slug(image)}-{_slug(block)}-{digest}-{stage}.jpg"


def is_own(picture: Picture) -> bool:
    """Whether the picture's file has the name that is given here, and so may be written."""
    return picture.file == file_of(picture.image, picture.block, picture.stage)


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[-_LONGEST:].strip("-") or "x"
