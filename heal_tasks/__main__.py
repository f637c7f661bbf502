"""``python -m heal_tasks``."""

from heal_tasks.cli.app import main

if __name__ == "__main__":
    main()
