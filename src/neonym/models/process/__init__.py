"""Add noise to latents, as diffusion or rectified flow."""
