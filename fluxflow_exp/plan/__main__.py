"""`python -m fluxflow_exp.plan`."""

import sys

from fluxflow_exp.plan.command import main

if __name__ == "__main__":
    sys.exit(main())
