"""`python -m app.cli`: the same as the `tunegate` command."""

from app.cli.main import main

main()
