"""A network on a chip's cores, on paper: `chips` (limits), `place` (graph -> placement), `traffic`, `cost`."""
