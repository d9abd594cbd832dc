"""What the training examples share; each example adds a model and a recipe."""
