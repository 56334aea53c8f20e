"""What the gateway's public surface looks like, said in OpenAPI 3.1."""
