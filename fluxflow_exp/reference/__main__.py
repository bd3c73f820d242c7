"""`python -m fluxflow_exp.reference`."""

import sys

from fluxflow_exp.reference.command import main

if __name__ == "__main__":
    sys.exit(main())
