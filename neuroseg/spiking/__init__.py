"""Integrate-and-fire neurons and their synapses in PyTorch: `network.SpikingNetwork` runs a graph."""
