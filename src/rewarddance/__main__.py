"""`python -m rewarddance` is `rewarddance`; so `torchrun -m rewarddance train CONFIG` works."""

import sys

from rewarddance.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
