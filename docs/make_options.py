"""Write docs/options.md from the options' own rules, so that the table cannot go stale."""

from pathlib import Path

from coordcbam.block import BlockConfig, all_rules

HEAD = """# Options of the block

Written by `make docs` from the fields' own rules; the validator, the command line's flags and the
notebook's names come from the same place. "Absent": step 1 has no such mechanism (`None`).

| field | notebook and flag | accepts | step 1 | step 2 | what it is |
|---|---|---|---|---|---|
"""


def table() -> str:
    """The page's text."""
    step1 = BlockConfig.step1().to_dict()
    lines = []
    for part, rule in all_rules():
        baseline = (step1[part] or {}).get(rule.name)
        cells = (
            f"`{part}.{rule.name}`",
            f"`{rule.flag}`",
            rule.expected.removesuffix(", or None"),
            "absent" if baseline is None else f"`{baseline}`",
            f"`{rule.default}`",
            rule.help,
        )
        lines.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(table(), encoding="utf-8")
