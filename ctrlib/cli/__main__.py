"""``python -m ctrlib.cli``."""

from ctrlib.cli import main

main()
