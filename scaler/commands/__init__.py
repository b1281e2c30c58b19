"""What each command does, one file a kind. Loaded on use, so that `headstart --help` stays fast."""
