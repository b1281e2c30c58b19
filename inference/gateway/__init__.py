"""An OpenAI-compatible gateway before a fleet of vLLM replicas: pure rules, one file each, and one ASGI shell."""
