"""``python -m sessionware`` is the ``sessionware`` command."""

from .cli import main

if __name__ == "__main__":
    main()
