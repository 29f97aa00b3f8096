"""Redis Cluster as both rooms need it: slots of keys, topology, who is to be asked. See `topology` and `discover`."""

from canal.cluster.slots import SLOTS, slot_of, slot_tag
from canal.cluster.topology import Member, Shard, Topology, parse_shards, parse_slots

__all__ = ["SLOTS", "Member", "Shard", "Topology", "parse_shards", "parse_slots", "slot_of", "slot_tag"]
