"""`python -m fluxflow_exp.benchmark`."""

import sys

from fluxflow_exp.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
