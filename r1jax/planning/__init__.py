"""What a run needs, before anyone pays: its programs compiled for TPU slices, their memory, and rooflines."""
