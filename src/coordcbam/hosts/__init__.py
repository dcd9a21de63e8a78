"""One file per training framework; each is imported only by name."""
