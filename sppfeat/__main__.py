"""The command line as ``python -m sppfeat``."""

from sppfeat.cli import main

if __name__ == "__main__":
    main(prog_name="sppfeat")
