"""Options as dataclass fields that declare their own rule.

A field carries its range, its help and its flag in its metadata, once. The validator, the command
line, the documentation's table and the notebook's argument names (a flag is the notebook's name,
unless the option is ours) are all read from there.
"""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from coordcbam._support.errors import UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from typing_extensions import Self


_INT32 = 2**31 - 1  # beyond it torch's own errors begin


class OptionValueError(UsageError):
    """A value outside its option's range."""


class OptionTypeError(UsageError, TypeError):
    """A value of the wrong type, or an option that does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What one option accepts: its type, an interval or a list of words, and what it is for.

    ``low`` and ``high`` are pairs of ``(value, inclusive)`` or None. ``optional`` allows None for
    "this mechanism is absent" (not "neutral"), ``derived`` allows None for "follows from the other
    options". ``ours`` marks an option that the notebook does not have, ``new_choices`` the words
    that it does not know.
    """

    name: str
    owner: str
    default: Any
    flag: str
    help: str
    low: tuple[float, bool] | None = None
    high: tuple[float, bool] | None = None
    choices: tuple[str, ...] = ()
    new_choices: tuple[str, ...] = ()
    any_case: bool = False
    optional: bool = False
    derived: bool = False
    ours: bool = False

    @property
    def kind(self) -> type:
        """int, float, bool or str: the type of the default; a default of None is a number's."""
        return float if self.default is None else type(self.default)

    @property
    def notebook(self) -> "Rule | None":
        """The rule as the notebook has it: neither None nor our words; None if it is ours."""
        if self.ours:
            return None
        return dataclasses.replace(self, new_choices=(), optional=False, derived=False)

    @property
    def words(self) -> tuple[str, ...]:
        """Every word that the option accepts."""
        return self.choices + self.new_choices

    @property
    def expected(self) -> str:
        """The rule in words, for errors and for the documentation.

        >>> Rule(name="p", owner="C", default=0.5, flag="p", help="", low=(0, False)).expected
        'a finite number > 0'
        """
        if self.words:
            words = "one of " + ", ".join(repr(word) for word in self.words)
        elif self.kind is bool:
            words = "True or False"
        else:
            words = "an integer" if self.kind is int else "a finite number"
            ends = [
                f"{sign}{'=' if bound[1] else ''} {bound[0]:g}"
                for sign, bound in ((">", self.low), ("<", self.high))
                if bound is not None
            ]
            words = " ".join([words, " and ".join(ends)]).rstrip()
        return f"{words}, or None" if self.optional or self.derived else words

    def check(self, value: Any) -> Any:
        """Return ``value`` in the field's own type, or raise naming field, value and rule."""
        if value is None and (self.optional or self.derived):
            return None
        if self.kind is bool:
            good_type = isinstance(value, bool)
        elif self.kind is str:
            good_type = isinstance(value, str)
            value = value.lower() if good_type and self.any_case else value
        else:
            wanted = numbers.Integral if self.kind is int else numbers.Real
            good_type = isinstance(value, wanted) and not isinstance(value, bool)
            with contextlib.suppress(OverflowError, ValueError):  # beyond every float
                value = self.kind(value) if good_type else value
        if not good_type:
            raise OptionTypeError(self.refusal(value))
        if not self._inside(value):
            raise OptionValueError(self.refusal(value))
        if self.kind is int and abs(value) > _INT32:
            raise OptionValueError(self.refusal(value, "; a 32-bit integer has to hold it"))
        if self.kind is float and not self._inside(_in_float32(value)):
            raise OptionValueError(self.refusal(value, f"; float32 makes it {_in_float32(value)}"))
        return value

    def refusal(self, value: Any, also: str = "") -> str:
        """The error's text: owner, field, value, rule and flag."""
        given = f"{self.owner}.{self.name}={shown(value)}"
        return f"{given}: expected {self.expected}{also} ({self.alias})"

    def _inside(self, value: Any) -> bool:
        if self.words:
            return value in self.words
        if self.kind is float and not (isinstance(value, float) and math.isfinite(value)):
            return False
        low = self.low is None or value > self.low[0] or (self.low[1] and value == self.low[0])
        high = self.high is None or value < self.high[0] or (self.high[1] and value == self.high[0])
        return low and high

    @property
    def alias(self) -> str:
        """Whose name the flag is, as it stands in error messages."""
        return f"{'flag' if self.ours else 'notebook'}: {self.flag}"


def _in_float32(value: float) -> float:
    """The number as the block's arithmetic has it: 0 under the normal range, infinite over it."""
    size = abs(value)
    if size < 2.0**-126:
        return 0.0
    return value if size < 2.0**128 else math.copysign(math.inf, value)


def option(default: Any, flag: str, help: str, **rule: Any) -> Any:  # noqa: A002
    """Declare a dataclass field with its rule; keywords are those of :class:`Rule`."""
    return dataclasses.field(default=default, metadata={"rule": dict(rule, flag=flag, help=help)})


def rules(config: Any) -> Iterator[Rule]:
    """The rules of every option of a config class or instance, in order."""
    owner = config.__name__ if isinstance(config, type) else type(config).__name__
    for field in dataclasses.fields(config):
        if "rule" in field.metadata:
            yield Rule(
                name=field.name, owner=owner, default=field.default, **field.metadata["rule"]
            )


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of the option dataclasses: checks every field on construction, by its own rule."""

    def __post_init__(self) -> None:
        """Check each field, then the rules that span fields."""
        for rule in rules(self):
            # A frozen dataclass allows no plain assignment; this keeps 3 and 3.0 the same config.
            object.__setattr__(self, rule.name, rule.check(getattr(self, rule.name)))
        self._check_together()

    def _check_together(self) -> None:
        """Raise when options that are fine alone do not fit together."""

    def _pair(self, low: str, high: str) -> None:
        """Two ends of a range: both given with ``low <= high``, or both None."""
        a, b = getattr(self, low), getattr(self, high)
        if (a is None) != (b is None) or (a is not None and a > b):
            flag = {rule.name: rule.flag for rule in rules(self)}
            raise OptionValueError(
                f"{type(self).__name__}.{low}={a!r}, {high}={b!r}: expected {low} <= {high}, "
                f"or None for both (notebook: {flag[low]}, {flag[high]})"
            )

    def _refuse(self, name: str, expected: str) -> NoReturn:
        """Raise for an option whose value does not fit the others."""
        (rule,) = (rule for rule in rules(self) if rule.name == name)
        value = getattr(self, name)
        raise OptionValueError(
            f"{rule.owner}.{name}={shown(value)}: expected {expected} ({rule.alias})"
        )

    def changed(self) -> str:
        """The options that differ from their defaults, for a repr; ``""`` when none does."""
        values = ((rule, getattr(self, rule.name)) for rule in rules(self))
        return ", ".join(f"{r.name}={value!r}" for r, value in values if value != r.default)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The options' names, in order."""
        return tuple(rule.name for rule in rules(cls))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Self":
        """Build from a mapping; an unknown name is an error that names the nearest known one."""
        for name in values:
            if name not in cls.names():
                raise unknown_option(name, cls.names())
        return cls(**values)

    @classmethod
    def of_step(cls, step: int, values: Mapping[str, Any]) -> "Self":
        """Build as the notebook's step would: step 1 lacks every optional mechanism.

        The notebook knows neither None nor our words, so these are refused.
        """
        for rule in rules(cls):
            value = values.get(rule.name)
            new = isinstance(value, str) and value in rule.new_choices
            if rule.notebook is not None and rule.name in values and (value is None or new):
                rule.notebook.check(value)
        absent = {rule.name: None for rule in rules(cls) if rule.optional and step == 1}
        return cls(**absent, **values)


def unknown_option(name: Any, known: Any) -> OptionTypeError:
    """The error for an option that does not exist.

    >>> str(unknown_option("coord_bta", ["coord_beta"]))
    "unknown option 'coord_bta'; did you mean 'coord_beta'?"
    """
    return OptionTypeError(f"unknown option {shown(name)}{did_you_mean(str(name), known)}")


_Part = TypeVar("_Part", bound=Options)


def checked(config: _Part | None, kind: type[_Part]) -> _Part:
    """``config``, or the default options where it is None.

    Raises:
        OptionTypeError: something else than options of this kind.
    """
    if config is not None and not isinstance(config, kind):
        raise OptionTypeError(f"config={shown(config)}: expected a {kind.__name__}")
    return kind() if config is None else config
