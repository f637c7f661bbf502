"""The whole system on one machine: embedded Postgres, Airflow's components, the demo."""
