"""neuroseg: train a U-Net, make it spike, take it to Loihi through Lava, and prove that the spikes are the same.

This package is PyTorch and people. `export` holds the graph and its files, `hardware_sim` the engines that run it.
"""

__version__ = "0.4.0"

EXIT_FAILED = 3  # of the commands: the program or the machine failed; 1 says that two runs differ
