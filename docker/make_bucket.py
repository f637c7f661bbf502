"""Create the bucket of HEAL_ARTIFACTS_URI if it is missing; a folder needs none."""

import boto3
from botocore.exceptions import ClientError

from heal_tasks.core.settings import load_settings


def make_bucket(artifacts_uri: str, endpoint_url: str | None) -> bool:
    """Create the bucket unless it exists.

    Args:
        artifacts_uri: folder or ``s3://bucket/prefix``.
        endpoint_url: S3-compatible endpoint; None means AWS.

    Returns:
        Whether a bucket was created.

    Raises:
        ClientError: the credentials are refused, or the bucket is somebody else's.
    """
    if not artifacts_uri.startswith("s3://"):
        return False
    bucket = artifacts_uri.removeprefix("s3://").split("/")[0]
    client = boto3.client("s3", endpoint_url=endpoint_url)
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=bucket)
        return True
    return False


if __name__ == "__main__":
    settings = load_settings()
    make_bucket(settings.artifacts_uri, settings.s3_endpoint_url)
