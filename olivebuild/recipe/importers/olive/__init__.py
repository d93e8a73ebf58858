"""Olive workflows of every release as recipes, no leaf of the file without a word."""
