"""Faces, the FMPN model, its training and its evaluation: plain Python, no Django."""
