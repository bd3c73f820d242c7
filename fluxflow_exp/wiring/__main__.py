"""`python -m fluxflow_exp.wiring`."""

import sys

from fluxflow_exp.wiring.command import main

if __name__ == "__main__":
    sys.exit(main())
