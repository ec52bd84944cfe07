"""Training files: lines become rows of one internal form, and whatever is wrong with them is told line by line."""
