"""Vision-language models by family: token layout and differentiable preprocessing."""
