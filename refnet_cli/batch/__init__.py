"""Many scenes: planned as tasks, mapped one after the other or in workers, and put together."""
