"""``python -m heal_tasks``."""

import sys
from importlib import import_module

from heal_tasks.cli.base import main

if __name__ == "__main__":
    # The imports of all other commands would take a search longer than the search itself.
    import_module("heal_tasks.cli.search_commands" if sys.argv[1:2] == ["search"] else "heal_tasks.cli.app")
    main()
