# Celery workers: everything that a step can need, torch included; one image for the processor and the GPU queue.
# Build from the repository's root: docker build -f docker/worker.Dockerfile .
FROM apache/airflow:3.3.2-python3.11

# The index that has the torch build for the device; empty takes pip's own, which on Linux has the CUDA build.
ARG TORCH_INDEX_URL=""

COPY requirements.txt docker/requirements-airflow.txt /tmp/
# First and alone: an index that has only torch must not be asked for anything else.
RUN grep '^torch==' /tmp/requirements.txt >/tmp/torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r /tmp/torch.txt
RUN pip install --no-cache-dir -r /tmp/requirements-airflow.txt -r /tmp/requirements.txt

# Made here as the image's user, so that a new volume mounted there belongs to it.
ENV PYTHONPATH=/opt/airflow HEAL_VAR_DIR=/opt/airflow/var
# The font cache of the report's pictures; without a folder that it may write to, matplotlib builds it anew in each task.
ENV MPLCONFIGDIR=/opt/airflow/var/matplotlib
RUN mkdir -p /opt/airflow/var /opt/airflow/logs

COPY plugins /opt/airflow/plugins
COPY dags /opt/airflow/dags
COPY heal_tasks /opt/airflow/heal_tasks
