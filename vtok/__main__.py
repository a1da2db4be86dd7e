"""`python -m vtok` is `vtok`."""

from vtok.cli import run

if __name__ == "__main__":
    run()
