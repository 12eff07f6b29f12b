"""What is measured, and how."""

from refnet_cli.process import let_waiting_threads_sleep

let_waiting_threads_sleep()  # as the command line tool does, and before anything imports torch
