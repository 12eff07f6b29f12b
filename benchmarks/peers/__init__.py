"""refnet next to what a user would take instead; `benchmarks.peers.compare` has what is compared."""
