"""Run refnet as ``python -m refnet_cli``."""

from refnet_cli.cli.main import main

main()
