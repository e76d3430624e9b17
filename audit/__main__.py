"""`python -m audit`, for where the command is not on the path."""

from audit.cli import main

main()
