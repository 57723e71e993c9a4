"""How a host talks to its engine: the pure session core and the ways to carry its frames."""
