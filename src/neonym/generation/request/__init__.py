"""Turn settings and prompt lines into jobs, and check them before anything is generated."""
