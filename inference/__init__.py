"""The vLLM side: served variants, how each is started, and its Kubernetes objects. Ships alone."""
