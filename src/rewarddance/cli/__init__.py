"""The command line: one file per command, which wires the packages below. `--help` loads none of them."""
