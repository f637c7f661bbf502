#!/bin/bash
# Creates everything that the components need at their start; runs at every `docker compose up` and changes nothing that exists.
set -euo pipefail

airflow db migrate
# One training at a time; slots that somebody changed in the UI are kept.
airflow pools get gpu >/dev/null 2>&1 || airflow pools set gpu 1 "Tasks that need the GPU"
python -m heal_tasks migrate
python "$(dirname "$0")/make_bucket.py"

# SimpleAuthManager reads passwords from this file at every login.
umask 077
python -c 'import json, os; print(json.dumps({"admin": os.environ["ADMIN_PASSWORD"]}))' \
    >"$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
