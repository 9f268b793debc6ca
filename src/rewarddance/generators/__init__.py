"""From prompts to pictures: diffusion and flow generators behind one protocol."""
