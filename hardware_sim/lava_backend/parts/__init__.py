"""Lava processes and their models, in a folder of their own: Lava imports every module beside a process."""
