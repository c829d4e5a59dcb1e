"""Records of a run for people to read: JSON lines, TensorBoard events, progress bars, plots and the HTML report."""
