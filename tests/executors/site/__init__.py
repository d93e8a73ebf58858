"""Tests of steps on other machines."""
