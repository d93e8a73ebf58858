"""Tests of engine/early."""
