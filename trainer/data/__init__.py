"""Training files: their lines read as rows of one internal form, with a fault or warning for each problem."""
