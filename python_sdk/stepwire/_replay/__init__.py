"""Pure replay: what a body's journal says, and whether the body does it again. No I/O, clock, threads or asyncio."""
