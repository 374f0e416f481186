"""`python -m qabert COMMAND …`."""

from qabert.cli import main

if __name__ == "__main__":
    main()
