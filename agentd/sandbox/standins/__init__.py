"""Stand-ins for vLLM, Ollama and LiteLLM: the real protocols over nothing at all. Standard library only."""
