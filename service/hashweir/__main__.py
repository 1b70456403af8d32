"""`python -m hashweir` is `hashweir`."""

import sys

from hashweir.cli import main

if __name__ == "__main__":
    sys.exit(main())
