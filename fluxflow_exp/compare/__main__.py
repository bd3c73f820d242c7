"""`python -m fluxflow_exp.compare`."""

import sys

from fluxflow_exp.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
