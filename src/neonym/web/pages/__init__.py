"""The pages, one module each. They show what the modules above them know, and pass on what the user asks for."""
