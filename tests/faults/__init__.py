"""Faults: bad files, damaged bytes, full disks, signals and kills, done to the command line tool in child processes."""
