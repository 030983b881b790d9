"""Formats that other trainers use."""
