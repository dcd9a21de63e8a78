"""Small things every room may use: no torch, nothing about attention."""
