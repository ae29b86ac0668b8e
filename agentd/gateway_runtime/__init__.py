"""What runs inside LiteLLM's own process. Executed by LiteLLM's interpreter (Python 3.9 or newer), which has no agentd:
nothing here imports the rest of agentd, and of third-party libraries only what LiteLLM brings along, lazily."""
