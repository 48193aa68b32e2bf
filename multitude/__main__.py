"""`python -m multitude`."""

from multitude.cli import main

main()
