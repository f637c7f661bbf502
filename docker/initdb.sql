-- Runs once, in an empty volume: one role and one database each for Airflow and for heal.
\set airflow_password `cat /run/secrets/airflow_db_password`
\set heal_password `cat /run/secrets/heal_db_password`

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;
REVOKE CONNECT ON DATABASE airflow FROM PUBLIC;

-- CREATEROLE: its first migration makes heal_owner, heal_pipeline and heal_reader.
CREATE ROLE heal LOGIN CREATEROLE PASSWORD :'heal_password';
CREATE DATABASE heal OWNER heal;
REVOKE CONNECT ON DATABASE heal FROM PUBLIC;

\connect heal
CREATE EXTENSION vector;
