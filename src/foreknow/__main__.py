"""`python -m foreknow`: the command line, where the script `foreknow` is not on the path."""

from foreknow.cli.main import main

if __name__ == "__main__":
    main()
