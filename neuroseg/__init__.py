"""neuroseg: train a U-Net, make it spike, take it to Loihi through Lava.

This package is the PyTorch side. `export` holds the integer graph and its file, `hardware_sim` the engines
that run the file. Only the commands, `neuroseg.cli`, know all three.
"""

__version__ = "0.4.0"
