-- Runs once, in an empty volume: one role and one database each for Airflow and for heal.
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv heal_password HEAL_DB_PASSWORD

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;
REVOKE CONNECT ON DATABASE airflow FROM PUBLIC;

-- CREATEROLE: its first migration makes heal_owner, heal_pipeline and heal_reader.
CREATE ROLE heal LOGIN CREATEROLE PASSWORD :'heal_password';
CREATE DATABASE heal OWNER heal;
REVOKE CONNECT ON DATABASE heal FROM PUBLIC;

\connect heal
CREATE EXTENSION vector;
