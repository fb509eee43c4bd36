"""Recipes: everything that decides a training run, as typed YAML."""
