"""How fast one replica is: an open-loop sweep against a server that runs, kept request by request in one file.

It measures and fits nothing: `headstart profile` turns the file into a capacity profile.
"""
