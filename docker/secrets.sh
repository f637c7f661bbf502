#!/bin/bash
# Makes the passwords and keys of the deployment: one file each in docker/secrets, which compose gives to the services
# that need them. A file that exists is left as it is.
set -euo pipefail
cd "$(dirname "$0")"

random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# Without a line end, which would become a part of the value.
secret() { [[ -e secrets/$1 ]] || printf '%s' "$2" >"secrets/$1"; }

# The folder keeps other accounts out. The files are readable, because every container has a user of its own.
umask 022
mkdir -p secrets
chmod 700 secrets

secret postgres_password "$(random 24)"
secret airflow_db_password "$(random 24)"
secret heal_db_password "$(random 24)"
secret redis_password "$(random 24)"
secret admin_password "$(random 12)"
secret fernet_key "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
secret jwt_secret "$(random 48)"
secret api_secret_key "$(random 32)"
secret aws_credentials "[default]
aws_access_key_id = $(random 10)
aws_secret_access_key = $(random 24)
"
# Settings: a file heal_NAME is read as HEAL_NAME.
secret heal_database_url "postgresql://heal:$(<secrets/heal_db_password)@postgres/heal"
secret heal_serve_token "$(random 32)"
secret heal_llm_api_key ""
