"""Where measurements come from: the PromQL catalogue, the Prometheus source, and the history store."""
