"""Process, machine and disk; nothing here depends on maps."""
