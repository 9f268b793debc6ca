"""The scoring service over HTTP, its client, and judging of long manifests by many workers."""
