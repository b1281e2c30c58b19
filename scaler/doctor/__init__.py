"""What can be wrong around a daemon: facts that are gathered, and judged by pure functions."""
