#!/bin/bash
# Creates everything that the components need at their start; runs at every `docker compose up` and changes nothing that exists.
set -euo pipefail

if [[ $(id -u) == 0 ]]; then
    # Volumes keep the owner they had under another AIRFLOW_UID, and folders of the host belong to root at first.
    chown -R "$AIRFLOW_UID:0" /opt/airflow/logs /opt/airflow/auth /opt/airflow/states
    HOME=/home/airflow LOGNAME=airflow exec setpriv --reuid "$AIRFLOW_UID" --regid 0 --clear-groups "$0"
fi

airflow db migrate
# One training at a time; slots that somebody changed in the UI are kept.
pool=${HEAL_GPU_POOL:-gpu}
airflow pools get "$pool" >/dev/null 2>&1 || airflow pools set "$pool" 1 "Tasks that need the GPU"
python -m heal_tasks migrate
python "$(dirname "$0")/make_bucket.py"

# SimpleAuthManager reads passwords from this file at every login.
umask 077
python -c 'import json, pathlib; print(json.dumps({"admin": pathlib.Path("/run/secrets/admin_password").read_text().strip()}))' \
    >"$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
