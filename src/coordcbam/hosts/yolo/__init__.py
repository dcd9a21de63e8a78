"""What our Ultralytics file is made of that needs no Ultralytics: networks as lists of layers."""

from coordcbam.hosts.yolo.row import CoordCBAMLayer

__all__ = ["CoordCBAMLayer"]
