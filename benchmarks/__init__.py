"""Benchmarks of refnet; see README.md."""

from refnet_cli.system.process import limit_openmp_spinning, reduce_garbage_collection

# As in the command-line tool, before anything imports torch.
limit_openmp_spinning()
reduce_garbage_collection()
