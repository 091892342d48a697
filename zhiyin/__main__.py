"""`python -m zhiyin` is the `zhiyin` command."""

from zhiyin.cli import main

main()
