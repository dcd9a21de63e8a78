"""Whether something is refused as it should be: our error, one line, the argument and the value."""

import contextlib

NOTHING = object()


def accepted(call, *words, value=NOTHING):
    """None where ``call`` is refused in one line that has all the words; else what happened.

    A ``value`` has to be in it too, as it is printed or as the rule takes it (in lower case, as a
    float), unless it cannot be printed.
    """
    try:
        call()
    except Exception as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        spellings = _spellings(value)
        if not any(spelling in text for spelling in spellings):
            missing.append(spellings[0])
        ours = type(error).__module__.startswith("coordcbam")
        if ours and isinstance(error, ValueError) and not missing and _is_short(text):
            return None
        return f"{type(error).__name__} without {missing}: {text[:200]!r}"
    return "accepted"


def _is_short(text):
    return len(text) < 400 and "\n" not in text


def _spellings(value):
    if value is NOTHING:
        return [""]
    try:
        found = [repr(value).splitlines()[0][:20]]
    except (RuntimeError, ValueError):
        return [""]
    if isinstance(value, str):
        found.append(repr(value.lower())[:20])
    with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
        found.append(repr(float(value)))
    return found
