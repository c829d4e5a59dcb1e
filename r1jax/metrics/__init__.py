"""What a run leaves for people: JSON lines, TensorBoard events, progress bars, plots and the HTML report."""
