"""All groups of commands.

A command imports what it needs when it runs: the image of Airflow's components has neither torch nor openai.
"""

# Importing a module registers its commands.
from heal_tasks.cli import (  # noqa: F401
    adopt,
    demo_adopt,
    doctor,
    feedback,
    judgments,
    machine_commands,
    questions,
    run_commands,
    search_commands,
    settings_page,
    sources,
    store_commands,
    topics,
)
from heal_tasks.cli.base import app, main  # noqa: F401
