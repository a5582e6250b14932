"""The object store: bytes under the name of their content, in a folder that gateways share or in an S3 bucket."""
