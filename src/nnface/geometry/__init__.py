"""Boxes, points, anchors and the letterbox: numpy only."""
