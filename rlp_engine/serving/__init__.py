"""Asking OpenAI-compatible servers (vLLM, SGLang, TGI, `transformers serve`, hosted ones)."""
