"""``python -m astrodeblend`` is ``astrodeblend``; ``torchrun -m astrodeblend train`` needs it."""

from astrodeblend.cli import main

if __name__ == "__main__":
    main(prog_name="astrodeblend")
