"""Learning: rows, objective, step, loop, state, verdict."""
