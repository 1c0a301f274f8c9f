"""`python -m keras_resnext`: the command line."""

from .cli import run

run()
