"""The notebook as an importable package: its names, signatures, return tuples and sections.

``step1`` and ``step2`` hold the notebook's three classes each, as thin adapters over ``block``;
``quicktest`` is its section 8, ``checklist`` its section 5 as live checks.
"""
