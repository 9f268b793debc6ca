"""Reward models: prompt and media in, reward and score out."""
