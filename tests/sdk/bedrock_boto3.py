"""Bedrock as anybody calls it with boto3: signed (SigV4), so it cannot be sent to another host. Prints what came back."""

import json

import boto3
from botocore.config import Config

client = boto3.client(
    "bedrock-runtime",
    region_name="us-east-1",
    aws_access_key_id="AKIAMADEUPMADEUPMADE",
    aws_secret_access_key="made-up-secret",
    config=Config(retries={"max_attempts": 1}),
)
answer = client.converse(
    modelId="amazon.titan-text-express-v1",
    messages=[{"role": "user", "content": [{"text": "Hello"}]}],
)
print(json.dumps({"role": answer["output"]["message"]["role"], "usage": answer["usage"]}))
