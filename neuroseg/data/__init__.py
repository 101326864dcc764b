"""Where scans come from. Every source yields the same `Cohort` of `Subject`s; see `volume`."""

from neuroseg.data.volume import Cohort, Reject, ScanError, Subject, stack_slices

__all__ = ["Cohort", "Reject", "ScanError", "Subject", "stack_slices"]
