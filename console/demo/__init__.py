"""The demonstration: two datacenters on this machine, links both ways, writers, a live table and a verdict."""
