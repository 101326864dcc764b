"""Lava: the only folder that imports it. `launch` starts a run in a process of its own; `worker` is that process.

Lava imports every module of this folder when it looks for process models, so none has side effects.
"""
