"""Small detection sets that need no network."""

from coordcbam.data.digits_set import DigitsConfig, digits

__all__ = ["DigitsConfig", "digits"]
