"""Write docs/options.md from the options' own rules, so that the table cannot go stale."""

from pathlib import Path

from coordcbam.block import BlockConfig, all_rules

HEAD = """# Options of the block

Written by `make docs` from the fields' own rules; the validator, the command line's flags and the
notebook's names come from the same place. "Absent": the preset has no such mechanism (`None`);
"derived": the value follows from the others. Options that the notebook does not have are marked
"ours". `certify(config)` and `coordcbam check` say which of them cannot act in a given config.

| field | flag | accepts | step 1 | step 2 | step 3 | what it is |
|---|---|---|---|---|---|---|
"""

PRESETS = (BlockConfig.step1(), BlockConfig.step2(), BlockConfig.step3())


def table() -> str:
    """The page's text."""
    presets = [config.to_dict() for config in PRESETS]
    lines = []
    for part, rule in all_rules():
        values = [(options[part] or {}).get(rule.name) for options in presets]
        absent = "derived" if rule.derived else "absent"
        cells = (
            f"`{part}.{rule.name}`",
            f"`{rule.flag}`{' (ours)' if rule.ours else ''}",
            rule.expected.removesuffix(", or None"),
            "absent" if values[0] is None else f"`{values[0]}`",
            *(absent if value is None else f"`{value}`" for value in values[1:]),
            rule.help,
        )
        lines.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(table(), encoding="utf-8")
