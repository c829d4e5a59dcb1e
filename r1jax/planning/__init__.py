"""What a run needs before it is started: its programs compiled for TPU slices, their memory, and rooflines."""
