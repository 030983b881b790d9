"""``python -m nnface``: the command line."""

from nnface.commands import main

if __name__ == "__main__":
    main()
