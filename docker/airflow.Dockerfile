# Scheduler, API server, DAG processor, triggerer: Airflow, the Celery provider and this project, without torch.
# Build from the repository's root: docker build -f docker/airflow.Dockerfile .
FROM apache/airflow:3.3.2-python3.11

COPY docker/requirements-airflow.txt /tmp/
RUN pip install --no-cache-dir -r /tmp/requirements-airflow.txt

# Made here as the image's user, so that a new volume mounted there belongs to it.
ENV PYTHONPATH=/opt/airflow HEAL_VAR_DIR=/opt/airflow/var
RUN mkdir -p /opt/airflow/var /opt/airflow/auth /opt/airflow/logs && chmod 700 /opt/airflow/auth

COPY docker/init.sh docker/make_bucket.py docker/gpu-pod.yaml /opt/airflow/docker/
COPY plugins /opt/airflow/plugins
COPY dags /opt/airflow/dags
COPY heal_tasks /opt/airflow/heal_tasks
