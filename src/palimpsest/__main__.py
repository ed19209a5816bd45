"""``python -m palimpsest``: the command by the interpreter at hand, where its script is not on the path."""

from palimpsest.cli import main

if __name__ == "__main__":
    main()
