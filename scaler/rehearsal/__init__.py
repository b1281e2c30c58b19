"""A rehearsal on one machine: real servers, a real Prometheus, a gateway, real load, and the daemon that scales it."""
