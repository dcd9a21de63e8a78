"""One row of ``check``: what was found, where, the number, and what to do."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding makes the status 1; a ``note`` does not."""

    what: str
    where: str
    measured: str
    todo: str
    note: bool = False
