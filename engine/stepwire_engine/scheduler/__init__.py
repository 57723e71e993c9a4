"""The loop around the core: it brings events in and commits, frames and answers out, and decides nothing."""
