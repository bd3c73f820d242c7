"""`python -m fluxflow_exp.study`."""

import sys

from fluxflow_exp.study.command import main

if __name__ == "__main__":
    sys.exit(main())
