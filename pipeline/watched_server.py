"""Let the server that forks worker processes end with its parent, and not collect garbage, while it imports packages.

The server imports this module first. Without it, the server looks for its parent only after the imports. Each worker
process turns the collector on again.
"""

import gc
import os

from pipeline.processes import PARENT_OF_SERVER, die_with_parent

# A process that imports the module for another reason is no server.
if PARENT_OF_SERVER in os.environ:
    die_with_parent(int(os.environ[PARENT_OF_SERVER]))
    gc.disable()
