"""Review findings of audits: what to look at, what was decided, and decisions as a new version."""
