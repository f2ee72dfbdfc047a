"""A body in another process or on another machine, over RPyC locked down to named calls and primitives."""
