"""What a recipe is made of: its stages, and how data passes from one to the next."""
