"""The `tunegate` command. `--help` is instant: everything heavy is imported inside a command."""
