"""Process, machine and disk; nothing in here knows of maps."""
