"""Registering a host's file once the host is loaded, without importing the host ourselves."""

import importlib
import sys


def wake_hosts() -> None:
    """Import our Ultralytics file if Ultralytics itself is loaded; else do nothing.

    Whoever unpickles a checkpoint of ours or inserts into a network has to meet builders that know
    the blocks, before those builders make the network anew without them.
    """
    if "ultralytics.nn.tasks" in sys.modules:
        importlib.import_module("coordcbam.hosts.ultralytics")
