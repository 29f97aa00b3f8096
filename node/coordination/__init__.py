"""What the nodes of a datacenter agree on. `base` is the contract of the stores, `coordinator` what is used."""
