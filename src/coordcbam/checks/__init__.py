"""Silent failures of a network, a run or an export, each measured and with what to do."""
