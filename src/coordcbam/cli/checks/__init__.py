"""What ``coordcbam check`` looks for in weights, in a run's records and in an export."""
