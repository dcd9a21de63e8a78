"""Optional packages: stop with one line that names the extra to install."""

import importlib.util

from coordcbam._support.errors import MissingExtraError

_EXTRA_OF = {
    "ultralytics": "yolo",
    "lightning": "lightning",
    "jinja2": "report",
    "polars": "report",
    "yaml": "report",
    "sklearn": "demo",
    "PIL": "report",
    "numpy": "report",
    "platformdirs": "demo",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet_ml": "comet",
}


def require(*packages: str, for_what: str) -> None:
    """Raise :class:`MissingExtraError` unless every package can be imported.

    >>> require("json", for_what="reading a run")
    >>> require("jinja2_of_another_world", for_what="the report")
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.MissingExtraError: the report needs 'jinja2_of_another_world': \
pip install jinja2_of_another_world
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            extra = _EXTRA_OF.get(package)
            target = f'"coordcbam[{extra}]"' if extra else package
            raise MissingExtraError(f"{for_what} needs {package!r}: pip install {target}")
