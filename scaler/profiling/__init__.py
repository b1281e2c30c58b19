"""From the raw file of a sweep to a capacity profile: the fit, its check, each class's limit, the file, the picture.

It measures nothing; `inference.profiling` does, and what crosses is the raw file.
"""
