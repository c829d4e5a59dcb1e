"""The stages of R1: making and filtering the training data that they pass on, and running them as a pipeline."""
