"""The pages, one module each. They show what the modules above them know, and change nothing by themselves."""
