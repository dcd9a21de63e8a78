"""The experiments behind what the documents claim; each is one command."""
