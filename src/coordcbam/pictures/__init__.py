"""What the blocks attend to on chosen images: gates over pictures, objects against background."""

from coordcbam.pictures.looking import look
from coordcbam.pictures.shot import Shot

__all__ = ["Shot", "look"]
