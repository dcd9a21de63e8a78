"""State that half precision would ruin: buffers that follow moves but never fall below float32."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class WideBuffers(nn.Module):
    """A module whose named buffers stay in float32 or wider through ``.half()`` and the like.

    A running average in bfloat16 stalls where its steps round to nothing; the buffers named in
    ``_wide`` therefore follow every device and ``.double()``, but no narrower dtype. Those named in
    ``_own`` do so too, and are no buffers: hosts that broadcast or average buffers over processes
    leave them alone, and no checkpoint has them.
    """

    _wide: ClassVar[tuple[str, ...]] = ()
    _own: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:  # noqa: FBT001, FBT002
        before = {name: self._buffers.get(name) for name in self._wide}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers.get(name)
            if old is not None and new is not None:
                self._buffers[name] = _not_narrowed(old, new)
        for name in self._own:
            if (old := getattr(self, name, None)) is not None:
                new = _not_narrowed(old, fn(old))
                # A module made without memory and then given some has anything in it.
                setattr(self, name, torch.zeros_like(new) if old.is_meta else new)
        return self


def _not_narrowed(old: Tensor, new: Tensor) -> Tensor:
    half = new.dtype in (torch.float16, torch.bfloat16)
    return old.to(device=new.device) if half else new
