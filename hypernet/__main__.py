"""`python -m hypernet`."""

from hypernet.cli import main

main()
