"""A Redis Cluster as target: see docs/architecture/cluster.md."""
