"""Lava: the only folder that imports it. `launch` starts a run in a process of its own; `worker` is that process."""
