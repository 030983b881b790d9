"""The networks, one file per family; ``create`` names them all, ``file`` reads and writes model files. Needs torch."""
