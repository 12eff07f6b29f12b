"""What is measured, and how."""

from refnet_cli.system.process import collect_garbage_seldom, let_waiting_threads_sleep

# As the command line tool does, and before anything imports torch.
let_waiting_threads_sleep()
collect_garbage_seldom()
