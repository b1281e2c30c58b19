"""First settings for a cluster: what serves there, and a commented settings file that observes it."""
