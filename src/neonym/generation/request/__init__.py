"""What is to be generated: prompt lines, options, jobs."""
