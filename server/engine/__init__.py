"""The thing that generates: vLLM behind one small protocol, and a fake of it for fault injection."""
