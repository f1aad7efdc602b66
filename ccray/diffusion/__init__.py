"""The mathematics of diffusion, and from a prompt to a picture."""
