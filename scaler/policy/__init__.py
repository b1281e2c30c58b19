"""Every scaling rule, one file a rule, its parameters beside its logic. Pure: no clock, no I/O, no state of its own."""
