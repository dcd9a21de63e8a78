"""What a module keeps alive: every tensor that can be reached from it, however deep it hides."""

import types

from torch import Tensor, nn

ATOMS = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, complex)


def tensors_in(root):
    """Every tensor reachable from ``root``: in modules, objects, containers and closures."""
    found, seen, left = {}, set(), [root]
    while left:
        thing = left.pop()
        if id(thing) in seen or thing is None or isinstance(thing, ATOMS):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[id(thing)] = thing
            left.append(thing.grad if thing.is_leaf else None)
        else:
            left += _inside(thing)
    return list(found.values())


def _inside(thing):
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return [*cells, thing.__defaults__, thing.__kwdefaults__]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    return [getattr(thing, "__dict__", None)]


def own_tensors(module: nn.Module):
    """The tensors a module may keep: parameters, buffers and the tallies of its averages."""
    tallies = [block.tally for block in module.modules() if hasattr(block, "tally")]
    return [*module.parameters(), *module.buffers(), *tallies]
