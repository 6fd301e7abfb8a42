"""``python -m pgt_fx.cli``."""

from pgt_fx.cli import main

main()
