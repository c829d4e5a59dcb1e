"""What the stages of R1 hand on to each other: texts to learn from, and how one stage follows from others."""
