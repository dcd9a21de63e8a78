"""``python -m coordcbam`` is the command line."""

import sys

from coordcbam.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
