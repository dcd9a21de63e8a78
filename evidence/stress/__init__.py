"""``python -m evidence.stress``: attention blocks in a stack that no normalisation protects."""
