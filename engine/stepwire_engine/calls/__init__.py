"""The host inside the engine: it makes the HTTP requests of `call` steps, which hold no slot of a user's host."""
