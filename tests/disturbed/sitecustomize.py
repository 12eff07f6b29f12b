"""What Python runs at its start where this folder is on PYTHONPATH: networks that are slow, die, or are counted.

The environment says how: REFNET_TEST_SLEEP seconds before each batch of tiles, REFNET_TEST_DEADLY to end the process at
once where a pixel is as bright as that, REFNET_TEST_LOADS a file that gets a line for each network that is loaded,
REFNET_TEST_CHATTER what a network's library prints.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

MODULE = "refnet_cli.engines.onnx_engine"


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module of ONNX engines and disturbs it once it is run."""

    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def run_and_disturb(module):
            run(module)
            disturb(module.OnnxEngine)

        spec.loader.exec_module = run_and_disturb
        return spec


def disturb(engine):
    load, compute = engine.__init__, engine._compute

    def noted(self, *arguments, **named):
        load(self, *arguments, **named)
        if notes := os.environ.get("REFNET_TEST_LOADS"):
            with open(notes, "a") as file:
                file.write(f"{os.getpid()}\n")
        if chatter := os.environ.get("REFNET_TEST_CHATTER"):
            sys.stdout.write(f"{chatter}\n")

    def disturbed(self, optical, sar):
        time.sleep(float(os.environ.get("REFNET_TEST_SLEEP", 0)))
        if "REFNET_TEST_DEADLY" in os.environ and (optical >= float(os.environ["REFNET_TEST_DEADLY"])).any():
            os._exit(9)
        return compute(self, optical, sar)

    engine.__init__, engine._compute = noted, disturbed


sys.meta_path.insert(0, Finder())
