"""What all other packages build on: arithmetic of time, errors, options, and access to torch."""
