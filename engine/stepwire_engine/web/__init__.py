"""The engine's HTTP side: metrics and health. It reads the engine and decides nothing."""
