"""`python -m service`: the same as `laud`."""

from service.cli import main

main()
