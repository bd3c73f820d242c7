"""`python -m fluxflow_exp.match`."""

import sys

from fluxflow_exp.match.command import main

if __name__ == "__main__":
    sys.exit(main())
