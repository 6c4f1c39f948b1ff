"""`python -m pv`: the same program as the `pv` and `provable` console scripts."""

from pv.cli.main import main

if __name__ == "__main__":
    main()
